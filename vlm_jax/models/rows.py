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
