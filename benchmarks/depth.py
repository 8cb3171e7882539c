"""Does compiling take longer for deeper models? Layers are scanned, so it should hardly.

    python -m benchmarks.depth [--layers 4 12 24 48] [--topology v5e:2x2] [--docs PAGE] [--json]

Plans of configs/captioning/coco.py, 256 wide, two pictures per device, with so many layers in the
ViT and in the decoder, compiled for chips that need not be there, or for "cpu:1". Seconds in all
include tracing the step. With --json the last line is one JSON object {"4": {"compile": ...,
"all": ..., "parameters": ..., "temporaries_gib": ...}, ...}.
"""

import argparse
import json
import time
from typing import Any

from benchmarks import sections
from configs.captioning import coco
from vlm_jax.plan.devices import devices_of
from vlm_jax.plan.planner import make_plan
from vlm_jax.workdir import to_json

PER_DEVICE = 2
HEAD = """\
# Seconds

Each section was written by the command that stands in it, which replaces that section alone.
"""


def measure(layers: int, topology: str) -> dict[str, float]:
    """One row of the table."""
    config: Any = coco.get_config()
    config.batch_size = PER_DEVICE * len(devices_of(topology))
    for part in (config.model.vision, config.model.decoder):
        part.update(layers=layers, width=256, heads=4, mlp_width=1024)
    start = time.perf_counter()
    plan = make_plan(to_json(config), topology, evals=False)
    if not plan.fits:
        raise SystemExit(f"{layers} layers do not fit {topology}, where compilers stop early")
    return {
        "compile": plan.compile_seconds,
        "all": time.perf_counter() - start,
        "parameters": plan.parameters,
        "temporaries_gib": plan.memory.temporaries,
    }


def page(rows: dict[int, dict[str, float]], topology: str) -> str:
    """The section: a table, and how much longer the deepest takes than the shallowest."""
    few, many = min(rows), max(rows)
    command = f"python -m benchmarks.depth --layers {' '.join(map(str, rows))}"
    lines = [
        (n, f"{row['parameters']:,.0f}", f"{row['compile']:.1f}", f"{row['all']:.1f}")
        for n, row in rows.items()
    ]
    head = ("layers", "parameters", "compiling, s", "with tracing, s")
    ratio = rows[many]["compile"] / rows[few]["compile"]
    told = f"{many / few:.0f} times the layers take {ratio:.2f} times the time."
    command = f"    {command} --topology {topology} --docs docs/seconds.md"
    return f"## Compiling by depth\n\n{command}\n\n{sections.table(head, lines)}\n\n{told}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 12, 24, 48])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--docs", help="such as docs/seconds.md")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = {}
    for layers in given.layers:
        rows[layers] = row = measure(layers, given.topology)
        shown = ", ".join(f"{key} {value:,.1f}" for key, value in row.items())
        print(f"{layers} layers: {shown}", flush=True)
    if given.docs:
        sections.write("depth", page(rows, given.topology), given.docs, HEAD)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
