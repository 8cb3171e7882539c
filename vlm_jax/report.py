"""The page at the end of a run: scores beside baselines, pictures with what the model says, curves.

Made from the workdir alone, one self-contained HTML file for light and dark screens. What a run
does not have (yet), the page says is missing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from vlm_jax import tables
from vlm_jax.curves import Chart, Series, chart
from vlm_jax.gallery import Row, explanations, gallery, read_rows
from vlm_jax.workdir import atomic_write_text, read_config

FILE = "report.html"
DETAILS = {
    "configuration": "config.json",
    "versions": "versions.json",
    "parameters": "parameters.txt",
}
"""Heading -> file of the workdir that the page shows folded up."""


def write(folder: str | Path) -> Path:
    """Writes `folder`/report.html and returns its path.

    FileNotFoundError if `folder` is no workdir, ValueError if its config is broken, OSError if it
    cannot be written. Anything else that is missing or unreadable becomes a sentence on the page.
    """
    folder = Path(folder).absolute()
    page = environment().get_template("report.html.jinja").render(contents(folder))
    atomic_write_text(folder / FILE, page)
    return folder / FILE


def contents(folder: Path) -> dict[str, Any]:
    """What the template shows, read from a workdir. Errors as in `write`."""
    config = read_config(folder)
    log = read_rows(folder / "metrics.jsonl", "step")
    timing = read_rows(folder / "timing.jsonl", "step")
    names = list(config.get("evals") or {})
    latest = {key: value for row in log for key, value in row.items() if value is not None}
    groups = tables.group_metrics(
        {key: latest[key] for name in names for key in latest if key.startswith(f"{name}/")}
    )
    return {
        "title": folder.name,
        "facts": _facts(folder, config, log, timing),
        "groups": groups,
        "expected": config.get("expected") or {},
        "missing": [name for name in names if name not in {group.name for group in groups}],
        "galleries": [gallery(folder, config, name) for name in names],
        "explanations": explanations(folder),
        "charts": [*_loss_charts(log), *_eval_charts(log, groups), *_speed_charts(timing)],
        "details": [(heading, _text(folder / file)) for heading, file in DETAILS.items()],
        "format_value": tables.format_value,
    }


def _facts(
    folder: Path, config: Mapping[str, Any], log: Sequence[Row], timing: Sequence[Row]
) -> list[tuple[str, str]]:
    """(name, value) of what stands at the top of the page."""
    facts = []
    if log:
        step, total = log[-1]["step"], config.get("total_steps")
        facts.append(("steps", f"{step:,} of {total:,}" if total else f"{step:,}"))
    parameters = _text(folder / "parameters.txt").split()
    if parameters:
        facts.append(("parameters", parameters[-1]))  # the table ends in the total
    column = lambda name: [row[name] for row in timing if row.get(name) is not None]
    if speeds := column("examples_per_second"):
        facts.append(("examples per second", f"{np.median(speeds):,.0f}"))
    if waits := column("waiting_share"):
        facts.append(("waiting for data", f"{np.mean(waits):.1%}"))
    if first := column("first_step_seconds"):
        facts.append(("start to first step", f"{first[-1]:.1f} s"))
    return facts


def _loss_charts(log: Sequence[Row]) -> list[Chart]:
    """The loss, whole and by task, and what steers it."""
    names = dict.fromkeys(key for row in log for key in row if key.startswith("loss/"))
    parts = [_series(log, name, name.removeprefix("loss/")) for name in names]
    whole = _series(log, "loss", "weighted sum" if parts else "loss")
    norm = _series(log, "gradient_norm", "gradient norm")
    rate = _series(log, "learning_rate", "learning rate")
    return _drawn(
        chart("training loss", "loss", [whole, *parts]),
        chart("gradient norm", "norm", [norm]),
        chart("learning rate", "rate", [rate], from_zero=True, smooth=False),
    )


def _eval_charts(log: Sequence[Row], groups: Sequence[tables.Group]) -> list[Chart]:
    """The first two metrics of each evaluation that have a baseline, with it."""
    charts = []
    for group in groups:
        for row in [row for row in group.rows if row.baselines][:2]:
            key = f"{group.name}/{row.metric}"
            levels = [
                _series(log, f"{key}/{name}", name.replace("_", " "), baseline=True)
                for name in row.baselines
            ]
            series = [_series(log, key, row.label), *levels]
            title = f"{group.name}: {row.label}"
            charts.append(chart(title, row.label, series, from_zero=True, smooth=False))
    return _drawn(*charts)


def _speed_charts(timing: Sequence[Row]) -> list[Chart]:
    """How fast the run was, and how much of its time it waited."""
    speed = _series(timing, "examples_per_second", "speed")
    waiting = _series(timing, "waiting_share", "waiting")
    return _drawn(
        chart("speed", "examples per second", [speed], from_zero=True),
        chart("waiting for data", "share of the time", [waiting], from_zero=True),
    )


def _series(rows: Sequence[Row], key: str, name: str, baseline: bool = False) -> Series:
    """One logged value over the steps at which it was logged."""
    logged = [row for row in rows if key in row]
    return Series(name, [row["step"] for row in logged], [row[key] for row in logged], baseline)


def _drawn(*charts: Chart | None) -> list[Chart]:
    return [one for one in charts if one is not None]


def _text(path: Path) -> str:
    """A text file without the white space around it, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def environment() -> jinja2.Environment:
    """Templates whose values are all escaped; a name that is not there is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vlm_jax", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
