"""Image-text matching, beside contrast or by itself: what it costs; a ranking by it, or the second
stage of one, as in ALBEF (arXiv:2107.07651) and BLIP (arXiv:2201.12086).
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vlm_jax.data.schema import Example, Source
from vlm_jax.data.text import Arrays
from vlm_jax.losses import softmax_cross_entropy
from vlm_jax.metrics.recall import Judged, first_candidates

TOGETHER = 32
"""Texts that one reading of a picture is matched with."""

SAID = 8
"""Texts of each example that training knows to be true of its picture, the drawn one among them;
more, for other pictures, are taken for wrong.
"""


@dataclass(frozen=True)
class Matching:
    """weight: of the matching loss beside the contrastive one. rerank: candidates of each query
    that are put in order again by the match; 0: none. start: id of the token that a text begins
    with when it is read with an image (BLIP's [Encode]); None: the text stays as it is.
    match_class: which of the match scores, of which there are one or two, says that both belong
    together.
    """

    weight: float = 1.0
    rerank: int = 16
    start: int | None = None
    match_class: int = -1

    def __post_init__(self):
        """ValueError for a negative number."""
        for name in ("weight", "rerank"):
            if getattr(self, name) < 0:
                raise ValueError(f"match.{name}={getattr(self, name)} must not be negative")

    def read(self, arrays: Arrays) -> Arrays:
        """A text as it is read with an image."""
        if self.start is None:
            return arrays
        text = arrays["text"].copy()
        text[0] = self.start
        return {**arrays, "text": text}

    def fields(self, arrays: Arrays, caption: str, example: Example) -> Arrays:
        """What training needs besides the text: see `vlm_jax.types`."""
        said = np.resize([mark(text) for text in (caption, *example["captions"])], SAID)
        found = {"picture_id": mark(example["id"]), "text_id": mark(caption), "said_ids": said}
        joint = {} if self.start is None else {"text_with_image": self.read(arrays)["text"]}
        return found | joint

    def loss(self, outputs: Mapping) -> Any:
        """f32[B]: cross-entropy of own pairs and of those with a wrong image and with a wrong text,
        one third each; a wrong one that the batch does not have costs nothing.
        """
        logits, there = outputs["match_logits"], outputs["match_found"]
        own = self.match_class % 2
        right = jnp.array([[own, 1 - own, 1 - own]], jnp.int32)
        right = jnp.broadcast_to(right, there.shape)
        each = softmax_cross_entropy(logits.reshape(-1, 2), right.reshape(-1))
        return jnp.mean(each.reshape(there.shape) * there, axis=1)

    def choice_loss(self, outputs: Mapping) -> Any:
        """f32[B]: cross-entropy of each image's own text among wrong ones, by their scores (ViLT,
        arXiv:2102.03334, section 4.2).
        """
        scores, there = outputs["match_logits"][..., self.match_class], outputs["match_found"]
        own = jnp.zeros(len(scores), jnp.int32)
        return softmax_cross_entropy(jnp.where(there, scores, -1e9), own)


def mark(text: str) -> np.uint32:
    """The same number for the same text; another one, almost surely, for another."""
    return np.uint32(zlib.crc32(text.encode()))


class Visits:
    """A source in which an example stands once for every few texts that it is matched with.

    places: positions in the source; each comes as example["visit"] with its number here.
    """

    def __init__(self, source: Source, places: Sequence[int]) -> None:
        self.name, self._source, self._places = source.name, source, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        example: Any = {**self._source[self._places[index]], "visit": index}
        return example


def match_scores(
    run: Any, task: Any, source: Source, texts: Sequence[str], pairs: Int[np.ndarray, "P 2"]
) -> Float[np.ndarray, " P"]:
    """For pairs (position in the source, number of the text) the logit that both belong together;
    -inf where the picture cannot be read.

    task: with `text` and `matching`, as `tasks.retrieval` has them.
    """
    match = task.matching
    assert match is not None
    read = [match.read(task.text(text)) for text in texts]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    visits = list(_together(pairs[order, 0]))
    size = max((len(visit) for visit in visits), default=1)

    def inputs(example: Any) -> Arrays:
        shown = np.resize(pairs[order[visits[example["visit"]]], 1], size)
        names = read[0].keys()
        return {name: np.stack([read[number][name] for number in shown]) for name in names}

    scores = np.full(len(pairs), -np.inf, np.float32)
    places = [int(pairs[order[visit[0]], 0]) for visit in visits]
    told = dict(match_class=match.match_class, apart=not task.contrast)
    for number, found in run.matches(Visits(source, places), inputs, **told):
        scores[order[visits[number]]] = found[: len(visits[number])]
    return scores


def _together(images: Int[np.ndarray, " P"]) -> Iterator[Int[np.ndarray, " n"]]:
    """The places of a sorted list in runs of equal values, TOGETHER at most in each."""
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    for places in np.split(np.arange(len(images)), starts[1:]):
        for start in range(0, len(places), TOGETHER):
            yield places[start : start + TOGETHER]


def all_scores(
    run: Any, task: Any, source: Source, texts: Sequence[str]
) -> dict[int, Float[np.ndarray, " n"]]:
    """For every picture that can be read, by position, its logits with all texts."""
    pairs = np.argwhere(np.ones((len(source), len(texts)), bool))
    found = match_scores(run, task, source, texts, pairs).reshape(len(source), len(texts))
    return {i: row for i, row in enumerate(found) if np.isfinite(row).all()}


def judge(
    run: Any,
    task: Any,
    source: Source,
    places: Sequence[int],
    texts: Sequence[str],
    vectors: tuple[np.ndarray, np.ndarray],
) -> tuple[Judged, Judged]:
    """The first candidates of every image and of every text, scored anew: the match's logit plus
    the similarity, as the authors of BLIP do.

    places: positions of the images. vectors: of images and of texts.
    """
    images, others = vectors
    match = task.matching
    assert match is not None
    forward = first_candidates(images, others, match.rerank)
    backward = first_candidates(others, images, match.rerank)
    count = len(texts)
    codes = [
        np.arange(len(images))[:, None] * count + forward.items,
        backward.items * count + np.arange(count)[:, None],
    ]
    wanted = np.unique(np.concatenate([code.reshape(-1) for code in codes]))
    pairs = np.stack([np.asarray(places)[wanted // count], wanted % count], axis=1)
    scores = match_scores(run, task, source, texts, pairs)
    first, second = (scores[np.searchsorted(wanted, code)] for code in codes)
    return (
        forward._replace(scores=forward.scores + first),
        backward._replace(scores=backward.scores + second),
    )
