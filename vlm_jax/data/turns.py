"""Turns of a conversation as tokens: what is said, and pictures wherever they stand in it.

The same function makes the turns that a model is trained on and those it is asked in a chat, so
that both read alike. A turn is the beginning of a conversation, or what stands between an answer
and the next turn, and then what is said, up to where the answer begins; an answer is its text and
what ends it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_jax.data.audio import no_picture
from vlm_jax.data.picture_words import PLACE, Grid, with_picture
from vlm_jax.data.schema import DataError, Example, Image
from vlm_jax.data.text import fill, fill_between
from vlm_jax.tokenizers import Tokenizer

MARK = "<image>"
"""Stands in what is said for the next of the turn's pictures."""

SOME = "0"
"""A text that an answer may be."""


@dataclass(frozen=True)
class Format:
    """How a conversation is arranged, in templates of `data.text.fill`.

    picture: what stands for a picture, see `data.picture_words.with_picture`. turn: what is said,
    {prompt}, with the pictures that come before it, {picture}; alone: the same of a turn that
    begins with words (None: `turn`, with nothing for {picture}). around: what stands around a
    picture, {picture}, wherever it is. begins: before the first turn; between: before every later
    one, after what ends the answer; ends: what ends an answer. opens: text before an answer, which
    the model itself writes, such as a blank: then an answer and its end are read as they stand
    behind the turn (None: as a text by itself).
    """

    picture: Mapping[str, Any]
    turn: str = PLACE + "{prompt}{bos}"
    alone: str | None = None
    around: str = PLACE
    begins: str = ""
    between: str = ""
    ends: str = "{eos}"
    opens: str | None = None

    def said(
        self, tokenizer: Tokenizer, text: str, grids: Sequence[Grid | None], *, first: bool
    ) -> list[int]:
        """Ids of a turn, up to where its answer begins.

        text: each `MARK` in it stands for a picture; pictures without one come before the text.
        grids: of the pictures, in order, where their places depend on that. first: whether this
        turn begins the conversation. DataError for more marks than pictures.
        """
        texts = text.split(MARK)
        if len(texts) - 1 > len(grids):
            raise DataError(
                f"{text!r} has {len(texts) - 1} times {MARK}, but {len(grids)} pictures are given"
            )
        pieces = [self._piece(tokenizer, grid) for grid in grids]
        while len(texts) > 1 and not texts[0].strip():
            texts = [texts[1].lstrip(), *texts[2:]]
        ahead = len(pieces) - (len(texts) - 1)
        turn = self.turn if ahead or self.alone is None else self.alone
        template = (self.begins if first else self.between) + turn
        template = template.replace(PLACE, "".join(pieces[:ahead]))
        return fill_between(tokenizer, template, texts, pieces[ahead:])

    def answered(self, tokenizer: Tokenizer, answer: str) -> list[int]:
        """Ids of an answer and of what ends it."""
        if self.opens is not None:
            before = self.turn.partition("{prompt}")[2]
            found = _behind(tokenizer, before, self.opens + answer, self.ends)
            if found is not None:
                return found
        return [*tokenizer.encode(answer), *self.ending(tokenizer)]

    def ending(self, tokenizer: Tokenizer) -> list[int]:
        """Ids of what ends an answer."""
        found = None if self.opens is None else _behind(tokenizer, SOME, "", self.ends)
        return fill(tokenizer, self.ends, "") if found is None else found

    def _piece(self, tokenizer: Tokenizer, grid: Grid | None) -> str:
        shown: Any = {"grid": grid}
        words, _ = with_picture(PLACE, self.picture, tokenizer, shown)
        return self.around.replace(PLACE, words)


def _behind(tokenizer: Tokenizer, before: str, text: str, after: str) -> list[int] | None:
    """Ids of a text and of the template `after` where they follow the template `before`; None where
    that ends in a token that goes on in the text.
    """
    start = fill(tokenizer, before, "")
    whole = fill(tokenizer, before + "{prompt}" + after, text)
    return whole[len(start) :] if whole[: len(start)] == start else None


def pictures_of(example: Example) -> list[Image]:
    """All that an example shows, in order; nothing, of a conversation in words alone."""
    if "pictures" in example:
        return list(example["pictures"])
    return [] if example["image"] is no_picture else [example["image"]]


def marks(example: Example) -> list[int]:
    """How many pictures each turn of an example shows.

    As many as its question has marks; where no question has any, the first shows them all.
    DataError if the marks are not as many as the pictures.
    """
    pictures = len(pictures_of(example))
    found = [question["question"].count(MARK) for question in example["questions"]]
    if not any(found):
        return [pictures, *found[1:]] if found else []
    if sum(found) != pictures:
        raise DataError(
            f"example {example['id']}: its questions have {sum(found)} times {MARK}, but there are "
            f"{pictures} pictures"
        )
    return found
