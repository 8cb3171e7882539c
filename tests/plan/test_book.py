"""docs/plans.md: its tables come from its numbers, and two of its plans come out the same today."""

from pathlib import Path

import pytest

from vlm_jax.plan import book

DOCS = Path(__file__).parents[2] / "docs"
ROWS = book.read(DOCS)


def test_every_row_belongs_to_an_entry_and_the_page_is_rendered_from_the_rows():
    assert ROWS.keys() <= set(book.BOOK)
    rows = [ROWS[entry] for entry in book.BOOK if entry in ROWS]
    assert (DOCS / "plans.md").read_text() == book.render(rows)


@pytest.mark.parametrize("entry", [e for e in book.BOOK if e.table == book.SMALL], ids=str)
def test_small_plans_are_still_true(entry, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    found, stored = book.make(entry), ROWS[entry]
    for name in ("fits", "parameters", "model_flops", "batch_size", "mesh"):
        assert found[name] == stored[name], name
    for name in ("arguments_gib", "temporaries_gib", "predicted_step_seconds"):
        assert found[name] == pytest.approx(stored[name], rel=0.2), name


def test_a_call_that_fails_says_why(monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    with pytest.raises(RuntimeError, match="unknown chip"):
        book.make(book.BOOK[0]._replace(topology="v9:2x2"))
