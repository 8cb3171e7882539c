"""Pages of results, of which each command writes its own section and leaves the others alone."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from vlm_jax.workdir import atomic_write_text

PAGE = "docs/retrieval.md"
HEAD = """\
# What retrieval gives, measured

Each section was written by the command that stands in it, which replaces that section alone.
"""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(name: str, body: str, page: str | Path = PAGE, head: str = HEAD) -> None:
    """Puts a section between its two markers, in the place of what an earlier run wrote there, or
    at the page's end. head: of a page that is not there yet.
    """
    path = Path(page)
    text = path.read_text(encoding="utf-8") if path.exists() else head
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{first}\n{body.strip()}\n{last}"
    before, found, rest = text.partition(first)
    after = rest.partition(last)[2] if found else "\n"
    before = before if found else f"{before.rstrip()}\n\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, before + section + after)
