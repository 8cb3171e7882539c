"""Which image each row of text is read with: its own, all that it names, or one that is wrong."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

from vlm_jax.layers.constraints import BATCH, constrain
from vlm_jax.types import Features


def for_rows(visual: Features, rows: int) -> Features:
    """The features of the image that each of `rows` texts belongs to: n texts of each image are n
    rows in a row.
    """
    times = rows // len(visual.tokens)
    return visual if times == 1 else jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), visual)


def joined(visual: Features, there: Bool[Array, "B N"]) -> Features:
    """Of N images each the tokens of one row side by side, real where the image is there."""
    mask = visual.mask & there.reshape(-1)[:, None]
    tokens = visual.tokens.reshape(len(there), -1, visual.tokens.shape[-1])
    return Features(tokens, mask.reshape(len(there), -1))


def dealt(visual: Features, where: Bool[Array, "B T"]) -> Features:
    """The real tokens of all images in one row, then cut into the shares of B texts."""
    flat = [x.reshape(-1, *x.shape[2:]) for x in (visual.tokens, visual.mask)]
    counts = jnp.sum(where, axis=1)  # [B]
    place = jnp.arange(min(where.shape[1], len(flat[1])))[None]
    rank = (jnp.cumsum(counts) - counts)[:, None] + place  # [B, S]
    real = (place < counts[:, None]) & (rank < jnp.sum(flat[1]))
    chosen = jnp.argsort(~flat[1], stable=True)[jnp.minimum(rank, len(flat[1]) - 1)]
    places = visual.places
    places = None if places is None else places.reshape(-1, 3)[chosen]
    return Features(flat[0][chosen], real, None, places)


def side_by_side(visual: Features, segments: Int[Array, "B T"]) -> Features:
    """The images of each row's examples as one memory; where a row has fewer, nothing is real."""
    rows = len(segments)
    tokens, mask = (x.reshape(rows, -1, *x.shape[1:]) for x in (visual.tokens, visual.mask))
    there = jnp.arange(tokens.shape[1])[None] < jnp.max(segments, axis=1, keepdims=True)
    mask = mask & there[..., None]  # [B, n, S]
    return Features(tokens.reshape(rows, -1, tokens.shape[-1]), mask.reshape(rows, -1))


def all_segments(
    visual: Features | None, segments: Int[Array, "B T"], memory: str
) -> Int[Array, "B L"]:
    """The segments of text and, where a decoder reads images before it (memory="prepend"), of
    memory, an image each.
    """
    if visual is None or memory != "prepend":
        return segments
    images = len(visual.tokens) // len(segments)
    own = jnp.repeat(jnp.arange(1, images + 1), visual.tokens.shape[1])
    own = jnp.broadcast_to(own[None], (len(segments), len(own)))
    return jnp.concatenate([own, segments], axis=1)


def retrieved_texts(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Texts inputs["retrieved"] i32[B, K, T] as a text encoder reads them, B * K rows."""
    real = inputs["retrieved_mask"]
    # A missing text is read like a real one and hidden afterwards: attention to nothing is NaN.
    shown = real | ~jnp.any(real, axis=2, keepdims=True)
    flat = lambda x: x.reshape(-1, x.shape[2])
    return {"text": flat(inputs["retrieved"]), "text_mask": flat(shown)}


def retrieved_features(found: Features, real: Bool[Array, "B K T"]) -> Features:
    """Features of the texts of each row side by side, [B, K * T, D]."""
    tokens = found.tokens.reshape(len(real), -1, found.tokens.shape[-1])
    return Features(tokens, real.reshape(len(real), -1))


def match_scores(understood: Mapping[str, Array], apart: bool = False) -> Float[Array, "B C"]:
    """Of what `VisionLanguageModel.understand` gives, what judges whether image and text match: the
    classes, or, of a model whose matching learns apart from a shared space, the score beside masked
    words if there is one. ValueError for a model without either.
    """
    for name in ("match_logits", "logits") if apart else ("logits",):
        if name in understood:
            return understood[name]
    raise ValueError(
        "this model cannot match images and texts: it needs config.model.classify, or "
        "config.model.reconstruct with match=True"
    )


PAIRED = 16
"""Texts that an image is compared with in training: its own and 15 others, as in ViLT
(arXiv:2102.03334, section 4.2).
"""


def following(inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Bool[Array, "B N"]]:
    """Each row's text and those of the next N - 1 rows, N at most PAIRED, [B * N, T]; and which of
    these may be compared: its own, and those that are not true of its image.
    """
    count = len(inputs["text"])
    others = (jnp.arange(count)[:, None] + jnp.arange(min(count, PAIRED))[None]) % count  # [B, N]
    texts = {name: constrain(inputs[name])[others] for name in ("text", "text_mask")}
    texts = {name: constrain(x.reshape(-1, x.shape[2]), BATCH) for name, x in texts.items()}
    true = true_pairs(inputs["picture_id"], inputs["text_id"], inputs["said_ids"])
    wrong = ~jnp.take_along_axis(true, others, axis=1)
    return texts, wrong.at[:, 0].set(True)


class Negatives(NamedTuple):
    """image: i32[B], for each text the row of an image that it is not true of. text: i32[B], for
    each image the row of a text that is not true of it. found: bool[B, 2], whether there is one.
    """

    image: Int[Array, " B"]
    text: Int[Array, " B"]
    found: Bool[Array, "B 2"]


def hard_negatives(
    logits: Float[Array, "B B"], true: Bool[Array, "B B"], key: Any = None
) -> Negatives:
    """For each row one wrong text and one wrong image of the batch, drawn with the probabilities of
    a softmax over those that are wrong (ALBEF, arXiv:2107.07651, section 3.2).

    logits: of image i and text j. true: whether text j is true of image i; such pairs are never
    drawn. key: without one, the most similar is taken. Where nothing is wrong, row 0 stands.
    """
    both = jax.lax.stop_gradient(
        jnp.stack([logits.T, logits])
    )  # [2, B, B]: texts look for images, images for texts
    wrong = ~jnp.stack([true.T, true])
    noise = 0.0 if key is None else jax.random.gumbel(key, both.shape, jnp.float32)
    chosen = jnp.argmax(jnp.where(wrong, both + noise, -jnp.inf), axis=-1).astype(jnp.int32)
    return Negatives(chosen[0], chosen[1], jnp.any(wrong, axis=-1).T)


def true_pairs(
    pictures: UInt[Array, " B"], texts: UInt[Array, " B"], said: UInt[Array, "B N"]
) -> Bool[Array, "B B"]:
    """Whether text j is true of image i: they come from one picture, or image i's example says it.

    pictures, texts: fingerprints of both. said: of texts of each image's example.
    """
    same = pictures[:, None] == pictures[None]
    return same | jnp.any(said[:, None] == texts[None, :, None], axis=-1)


def with_negatives(
    visual: Features, inputs: Mapping[str, Array], chosen: Negatives
) -> tuple[Features, dict[str, Array]]:
    """Three rows for each: its own pair, its text with a wrong image, its image with a wrong text;
    [B * 3, ...].
    """
    images = visual._replace(pooled=None, places=None)
    images = jax.tree.map(lambda x: _beside(x, constrain(x)[chosen.image], x), images)
    texts = {name: _beside(x, x, constrain(x)[chosen.text]) for name, x in inputs.items()}
    return images, texts


def _beside(*parts: Array) -> Array:
    """Rows of several arrays in turn, which keeps each row where it is on a mesh."""
    x = jnp.stack(parts, axis=1)  # [B, n, ...]
    return constrain(x.reshape(-1, *x.shape[2:]), BATCH)
