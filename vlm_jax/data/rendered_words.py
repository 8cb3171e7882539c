"""The built-in data set of text in pictures: English words and short phrases in several fonts, to
be read and to be translated, rendered on demand.

Prompts are questions: "read" asks for the English text, "in german" and so on for its translation.
Three things are held out, one at a time and together: drawings, fonts (whole families), and words
(see `data.phrases`). `pip install 'vlm_jax[words]'` brings the words and the fonts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase
from typing import Any

import numpy as np

from vlm_jax.data import generated
from vlm_jax.data.fonts import font_file
from vlm_jax.data.lettering import Lettering, Placed, paint
from vlm_jax.data.phrases import LANGUAGES, LONGEST, Phrase, held_out, made_up, phrases
from vlm_jax.data.schema import DataError, Example, Question, Region
from vlm_jax.kwargs import Pair, pair

SPLITS = ("train", "test", "test_fonts", "test_words", "test_both")
"""Other drawings; in other fonts; of other words; both. The position is part of the seed."""

LENGTHS = {"train": 50_000}
_OTHER_LENGTH = 300

FONTS = (
    *("dejavu sans", "dejavu sans bold", "dejavu sans oblique", "dejavu mono"),
    *("dejavu serif", "dejavu serif bold", "dejavu serif italic"),
    *("stix", "stix bold", "stix italic", "manrope", "source sans", "source sans bold"),
    *("source serif", "source serif bold", "source serif italic"),
)
"""What is trained on."""

OTHER_FONTS = ("hanken grotesk", "caladea", "computer modern mono", "fredoka")
"""A sans-serif, a serif, a typewriter and a rounded family of which nothing is trained on."""

READ = "read"
_CHOICE, _PLACE, _PIXELS = range(3)  # independent random streams of one example


@dataclass(frozen=True)
class Picture:
    """A picture that is laid out and painted when it is asked for; texts alone cost nothing. key:
    of its random streams.
    """

    lettering: Lettering
    text: str
    font: str
    key: tuple[int, ...]

    @cached_property
    def placed(self) -> Placed:
        """Where the words are. DataError if they do not fit."""
        rng = np.random.default_rng((*self.key, _PLACE))
        return self.lettering.place(self.text, self.font, rng)

    def __call__(self) -> np.ndarray:
        """u8[H, W, 3]."""
        return paint(self.placed, (*self.key, _PIXELS))


@dataclass(frozen=True)
class Letters(Sequence[Region]):
    """The regions of a picture: its letters."""

    picture: Picture

    @cached_property
    def _regions(self) -> list[Region]:
        return [
            {"box": list(box), "labels": {"letter": letter, "number": str(number)}}
            for number, letter, box in self.picture.placed.letters()
        ]

    def __len__(self) -> int:
        return len(self._regions)

    def __getitem__(self, index: Any) -> Any:
        return self._regions[index]


@dataclass(frozen=True)
class RenderedWords:
    """A source of pictures of words; example i is a function of (seed, split, i) alone.

    split: one of SPLITS. size: height and width in pixels, one number for a square. length: number
    of examples, None for 50,000 of "train" and 300 of the others. languages: codes of
    `phrases.LANGUAGES`, of what is asked for beside reading. longest: most characters of a phrase.
    fonts, other_fonts: names of `fonts.FONTS` or files, those of held-out fonts apart. smallest:
    least pixels to the em. tilt: most degrees either way. lines: most of them. made_up: share in
    [0, 1] of training pictures that show made-up words, which can only be read; without them a
    reader learns the few phrases by heart.

    captions: the text. questions: READ, then a translation each, with their types "read", "de" ...
    regions: where each letter lies, and which character of the text it is, counted from 1, as in
    {"letter": "a", "number": "3"}. Raises ValueError for values out of range or unknown languages
    and fonts, DataError for missing packages or fonts, and for phrases that do not fit the picture.
    """

    split: str = "train"
    size: Pair = 64
    length: int | None = None
    languages: Sequence[str] = ("de", "fr", "es")
    longest: int = LONGEST
    fonts: Sequence[str] = FONTS
    other_fonts: Sequence[str] = OTHER_FONTS
    smallest: int = 6
    tilt: float = 10.0
    lines: int = 3
    made_up: float = 0.4
    seed: int = 0

    def __post_init__(self):
        """Checks the ranges, and that words and fonts are there."""
        chosen = (*self.fonts, *self.other_fonts)
        checks = {
            f"split={self.split!r} must be one of {', '.join(SPLITS)}": self.split in SPLITS,
            f"size={self.size} must be at least 32 pixels": min(pair(self.size)) >= 32,
            f"length={self.length} must be at least 1": self.length is None or self.length > 0,
            f"smallest={self.smallest} must be at least 4 pixels": self.smallest >= 4,
            f"lines={self.lines} must be at least 1": self.lines >= 1,
            f"tilt={self.tilt} must be in [0, 45] degrees": 0 <= self.tilt <= 45,
            f"made_up={self.made_up} must be in [0, 1]": 0 <= self.made_up <= 1,
            f"seed={self.seed} must not be negative": self.seed >= 0,
            "fonts and other_fonts need at least one font each": self.fonts and self.other_fonts,
            "fonts and other_fonts must not share a font": len(set(chosen)) == len(chosen),
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(f"RenderedWords: {message}")
        for name in chosen:
            font_file(name)
        if not self._phrases:
            raise DataError(f"RenderedWords: no phrase has at most longest={self.longest} letters")

    @property
    def name(self) -> str:
        """Such as "rendered_words/train"."""
        return f"rendered_words/{self.split}"

    @cached_property
    def _phrases(self) -> list[Phrase]:
        """Those of the split."""
        other = self.split in ("test_words", "test_both")
        known = phrases(tuple(self.languages), self.longest)
        return [phrase for phrase in known if held_out(phrase.english) == other]

    @cached_property
    def _words(self) -> list[str]:
        return sorted({word for phrase in self._phrases for word in phrase.english.split()})

    @cached_property
    def _order(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(len(self._phrases))

    def __len__(self) -> int:
        """The number of examples."""
        return self.length or LENGTHS.get(self.split, _OTHER_LENGTH)

    def __getitem__(self, index: int) -> Example:
        """The example at a position; its picture is painted when called. IndexError outside."""
        key = generated.key(self, SPLITS, index)
        rng = np.random.default_rng((*key, _CHOICE))
        phrase = self._phrase(index, rng)
        fonts = self.other_fonts if self.split in ("test_fonts", "test_both") else self.fonts
        lettering = Lettering(pair(self.size), self.smallest, self.tilt, self.lines)
        picture = Picture(lettering, phrase.english, fonts[int(rng.integers(len(fonts)))], key)
        example: Any = {
            "id": f"{self.split}-{index}",
            "image": picture,
            "captions": [phrase.english],
            "questions": _questions(phrase),
            "regions": Letters(picture),
        }
        return example

    def _phrase(self, index: int, rng: np.random.Generator) -> Phrase:
        """A made-up one now and then in training; in tests each phrase in turn, shuffled."""
        if self.split == "train":
            if rng.random() < self.made_up:
                return Phrase(made_up(rng, self._words), {})
            return self._phrases[rng.integers(len(self._phrases))]
        return self._phrases[self._order[index % len(self._order)]]


def kinds() -> dict[str, tuple[str, ...]]:
    """What regions are labelled with: kind of label to its words."""
    return {
        "letter": tuple(ascii_lowercase),
        "number": tuple(str(number) for number in range(1, LONGEST + 1)),
    }


def _questions(phrase: Phrase) -> list[Question]:
    """READ, and one for each language."""
    translated = phrase.translations.items()
    return [
        {"question": READ, "answers": [phrase.english], "type": READ},
        *(
            Question(question=f"in {LANGUAGES[code]}", answers=[text], type=code)
            for code, text in translated
        ),
    ]
