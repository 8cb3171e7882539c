"""The plans of docs/plans.md, made anew by one command from the repository's root.

    python -m vlm_jax.plan.book [--only=TEXT] [--folder=docs]

Each is a call of launch.py in a process of its own; those of large models compile for minutes.
--only makes just those anew whose title or config contains the text. The numbers are kept in
plans.jsonl, from which the tables of plans.md are written.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One plan: a row of a table. config: file below configs/ and its arguments."""

    table: str
    title: str
    config: str
    topology: str


SCALE = "fsdp=-1,remat,bf16"
DECODER = f"{SCALE},blocked=8192"
SLICED = "fsdp=-1,remat=sliced,bf16,blocked=8192"
FINE_TUNING, PRETRAINING, SCALING, SMALL = (
    "PaliGemma-3B at 224 pixels, 128 text tokens, AdamW",
    "Models at their published batch sizes",
    "Weak scaling: SigLIP B/16 at 128 examples per chip",
    "Small ones, which a test makes anew",
)

BOOK = (
    *(
        Entry(
            FINE_TUNING,
            f"{rows} per chip",
            f"vqa/paligemma.py:text=128,batch={64 * rows},{SLICED}",
            "v5e:8x8",
        )
        for rows in (8, 16, 32, 64, 128)
    ),
    Entry(PRETRAINING, "CLIP ViT-B/32", f"retrieval/clip.py:{SCALE}", "v5e:16x16"),
    Entry(PRETRAINING, "CLIP ViT-L/14", f"retrieval/clip.py:large,{SCALE}", "v5e:16x16"),
    # Its sides, 27 x 4,304 x 1,152, divide by 128, not by 256: two copies of 128 shares each.
    Entry(
        PRETRAINING,
        "SigLIP So400m/14",
        "retrieval/siglip.py:so400m,fsdp=128,remat,bf16",
        "v5e:16x16",
    ),
    Entry(PRETRAINING, "LLaVA-1.5 7B", f"vqa/llava.py:{DECODER}", "v5e:8x8"),
    Entry(PRETRAINING, "LLaVA-1.5 7B", f"vqa/llava.py:{DECODER}", "v5p:4x4x4"),
    Entry(PRETRAINING, "PaliGemma 2 10B", f"captioning/paligemma2.py:large,{DECODER}", "v5p:4x4x4"),
    Entry(PRETRAINING, "BLIP-2 OPT-2.7B", f"captioning/blip2.py:{DECODER}", "v5e:8x8"),
    # Sixteen shares each: over 256, a chip would hold a row of most matrices, and exchange twice as
    # much to read them.
    *(
        Entry(
            SCALING,
            f"{side} x {side} chips",
            f"retrieval/siglip.py:batch={128 * side * side},fsdp=16,remat,bf16",
            f"v5e:{side}x{side}",
        )
        for side in (4, 8, 16)
    ),
    Entry(SMALL, "SigLIP", "retrieval/siglip.py:smoke,batch=4096,remat,bf16", "v5e:2x2"),
    Entry(
        SMALL, "PaliGemma", "vqa/paligemma.py:smoke,batch=2048,remat,bf16,blocked=128", "v5e:2x2"
    ),
)

COLUMNS = {
    "batch": lambda row: f"{row['batch_size']:,}",
    "parameters": lambda row: f"{row['parameters']:,}",
    "arguments, GiB": lambda row: f"{row['arguments_gib']:.2f}",
    "temporaries, GiB": lambda row: f"{row['temporaries_gib']:.2f}",
    "of GiB": lambda row: f"{row['hbm_gib']:g}",
    "fits": lambda row: "yes" if row["fits"] else "no",
    "model FLOPs": lambda row: f"{row['model_flops']:.3g}",
    "exchanged, GB": lambda row: f"{row['collective_bytes'] / 1e9:.3g}",
    "step, s": lambda row: _figure(row["predicted_step_seconds"], "{:.3g}"),
    "bound": lambda row: row["bound"] or "-",
    "MFU at most": lambda row: _figure(row["mfu_ceiling"], "{:.0%}"),
    "chip hours": lambda row: _figure(row["chip_hours"], "{:,.3g}"),
}
"""Column of the tables to what it shows of a plan's JSON."""

HEAD = """# Plans

What `python launch.py --mode=plan` finds for published models on TPU slices: compiled by the TPU
compiler on a machine without one, so that memory is what a chip would hold, and time what its data
sheet allows at best (`vlm_jax/plan/chips.py`). Memory is per device, exchanged bytes are per device
and step. Regenerate with `python -m vlm_jax.plan.book`; a row is the plan of

    python launch.py --mode=plan --config=configs/CONFIG --topology=TOPOLOGY --json
"""


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def make(entry: Entry) -> dict[str, Any]:
    """The plan of an entry as JSON. RuntimeError with the last lines of a call that failed."""
    command = [sys.executable, "launch.py", "--mode=plan", f"--config=configs/{entry.config}"]
    command += [f"--topology={entry.topology}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 1) or not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1])


def render(rows: Sequence[dict[str, Any]]) -> str:
    """The text of plans.md from entries joined with their plans."""
    parts = [HEAD]
    for table in dict.fromkeys(row["table"] for row in rows):
        parts += [f"\n## {table}\n", _line(["", "config", "topology", *COLUMNS])]
        parts.append(_line(["---"] * (len(COLUMNS) + 3)))
        for row in (row for row in rows if row["table"] == table):
            cells = [row["title"], f"`{row['config']}`", row["topology"]]
            parts.append(_line([*cells, *(show(row) for show in COLUMNS.values())]))
        parts += [
            f"\n{row['title']} on {row['topology']}: {warning}."
            for row in rows
            for warning in row["warnings"]
            if row["table"] == table
        ]
    return "\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read(folder: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """The plans that a folder holds, by entry."""
    file = folder / "plans.jsonl"
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {tuple(row[name] for name in Entry._fields): row for row in rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the plans, or some of them, and write both files after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    given = parser.parse_args(arguments)
    given.folder.mkdir(exist_ok=True)
    for entry in BOOK:
        if not any(given.only in text for text in entry):
            continue
        made = entry._asdict() | make(entry)
        known = read(given.folder) | {entry: made}  # another call may have written meanwhile
        rows = [known[one] for one in BOOK if one in known]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (given.folder / "plans.jsonl").write_text(lines, encoding="utf-8")
        (given.folder / "plans.md").write_text(render(rows), encoding="utf-8")
        fits = "fits" if made["fits"] else "does not fit"
        print(f"{entry.title} on {entry.topology}: {fits}", flush=True)


if __name__ == "__main__":
    main()
