"""Metrics as people read them: each beside its baselines, headline metrics first.

Evaluation names its values "<eval>/<metric>" and what a trivial answer would score
"<eval>/<metric>/<baseline>"; "<eval>/<metric>/low" and "/high" bound what another set of as many
examples would give, at 95 % (see metrics.bootstrap).
"""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

BASELINES = (
    *("question_only", "no_history", "nearest_picture", "other_image", "chance", "majority"),
)
"""Last component of a baseline's name."""

INTERVAL = ("low", "high")
"""Last component of the names of an interval's ends."""

COUNTS = {"n": "examples", "n_texts": "texts", "skipped": "skipped"}
"""What an evaluation says about its examples; no score."""

HEADLINES = (
    "accuracy",
    "CER",
    "attribute_f1",
    "CIDEr-D",
    "image_to_text/R@1",
    "text_to_image/R@1",
    "image_to_text/reranked/R@1",
    "text_to_image/reranked/R@1",
    "audio_to_text/R@1",
    "text_to_audio/R@1",
    "audio_to_image/R@1",
    "image_to_audio/R@1",
    "masked_accuracy",
    "match_accuracy",
)
"""Metrics that stand first, in this order."""


_LITERAL: Any = {"markup": False, "emoji": False, "highlight": False}  # names are shown as they are


class Row(NamedTuple):
    """One metric of one evaluation. metric: without the evaluation's name. baselines: name to
    value. interval: at 95 %, or None.
    """

    metric: str
    value: float
    baselines: dict[str, float]
    interval: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """The name in words: "image to text R@1", "accuracy type colour"."""
        return self.metric.replace("_", " ").replace("/", " ")

    @property
    def between(self) -> str:
        """The interval: "0.391 - 0.433"; empty if there is none."""
        return " - ".join(format_value(end) for end in self.interval or ())

    @property
    def beside(self) -> str:
        """The baselines in words: "question only 0.412"."""
        return ", ".join(
            f"{name.replace('_', ' ')} {format_value(value)}"
            for name, value in self.baselines.items()
        )


class Group(NamedTuple):
    """One evaluation. rows: its metrics, headlines first. parts: breakdowns of these, such as
    "accuracy/type/colour".

    counts: what it says of COUNTS.
    """

    name: str
    rows: list[Row]
    parts: list[Row]
    counts: dict[str, float]

    @property
    def seen(self) -> str:
        """How much it has seen: "1,000 examples, 2 skipped"; empty if it does not say."""
        counts = {word: self.counts[key] for key, word in COUNTS.items() if key in self.counts}
        return ", ".join(f"{value:,.0f} {word}" for word, value in counts.items())


def group_metrics(metrics: Mapping[str, float]) -> list[Group]:
    """Values by evaluation, in the order given; a baseline goes to its metric, a value on its own
    becomes a metric.
    """
    groups: dict[str, Group] = {}
    for key, value in metrics.items():
        name, _, metric = key.partition("/")
        group = groups.setdefault(name, Group(name, [], [], {}))
        above = ["/".join(key.split("/")[:i]) for i in range(2, key.count("/") + 1)]
        if metric in COUNTS:
            group.counts[metric] = value
        elif key.split("/")[-1] in INTERVAL and key.rpartition("/")[0] in metrics:
            continue
        elif key.split("/")[-1] not in BASELINES or key.rpartition("/")[0] not in metrics:
            found = {b: metrics[f"{key}/{b}"] for b in BASELINES if f"{key}/{b}" in metrics}
            rows = group.parts if any(whole in metrics for whole in above) else group.rows
            ends = [metrics[f"{key}/{end}"] for end in INTERVAL if f"{key}/{end}" in metrics]
            interval = (ends[0], ends[1]) if len(ends) == 2 else None
            rows.append(Row(metric or name, value, found, interval))
    for group in groups.values():
        group.rows.sort(key=_rank)
    return list(groups.values())


def metric_table(metrics: Mapping[str, float], width: int = 100) -> str:
    """All metrics as plain text, at most `width` characters wide; ends in a newline."""
    console = Console(file=io.StringIO(), width=width, color_system=None, **_LITERAL)
    console.print(_table(metrics))
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def print_table(metrics: Mapping[str, float]) -> None:
    """Prints all metrics: with bold headings on a terminal, as plain text elsewhere."""
    console = Console(**_LITERAL)
    if console.is_terminal:
        console.print(_table(metrics))
    else:
        print(metric_table(metrics), end="", flush=True)


def format_value(value: float) -> str:
    """Three decimals below 100, two to one above; whole numbers from 100 on without: 0.412, 3.500,
    128, 131.5.
    """
    if abs(value) < 100:
        return f"{value:.3f}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _rank(row: Row) -> int:
    """Headlines in their order, then the others as they came."""
    return HEADLINES.index(row.metric) if row.metric in HEADLINES else len(HEADLINES)


def _table(metrics: Mapping[str, float]) -> Table:
    """One section per evaluation."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 %", no_wrap=True)
    table.add_column("baseline")
    for group in group_metrics(metrics):
        table.add_row()
        table.add_row(group.name, "", "", group.seen, style="bold")
        for row in [*group.rows, *group.parts]:
            table.add_row(f"  {row.label}", format_value(row.value), row.between, row.beside)
    return table
