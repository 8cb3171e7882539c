"""Losses of a dual encoder: every image of the batch against every text.

Whole, they hold a matrix of B x B scores. In tiles, the matrix exists nowhere: each tile is
computed when it is needed and again for the gradient, and on several devices the texts travel
around a ring, so that memory grows with B and not with its square.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm_jax.layers.constraints import constrain
from vlm_jax.losses import ring


def contrastive_softmax(
    image: Float[Array, "B *Q E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    *,
    chunk: int | None = None,
    label_smoothing: float = 0.0,
) -> Float[Array, " B"]:
    """InfoNCE in both directions, averaged: each image picks its text among the batch's, each text
    its image.

    image, text: unit vectors, row i of one belongs to row i of the other. scale: inverse
    temperature. CLIP (arXiv:2103.00020), figure 3. An untrained model scores ln B.
    chunk: at most so many images meet so many texts at a time; None computes the whole matrix,
    which images with several vectors, of which the best counts, need (BLIP-2, arXiv:2301.12597,
    section 3.1). ValueError if it is not positive, or given for such images. label_smoothing: in
    [0, 1), how much of each choice is spread over all (ALIGN, arXiv:2102.05918).
    """
    if chunk is not None:
        given = _in_float32(image, text, scale)
        loss: Any = _softmax(_checked(chunk, image), *given)
        return loss if not label_smoothing else loss + label_smoothing * _own_excess(*given)
    images, texts = _everywhere(image, text)
    of_image = scale * _products(image, texts)
    of_text = of_image.T if texts is text else scale * _products(text, images)
    own = jnp.sum(jnp.where(jnp.eye(len(image), dtype=bool), of_image, 0), axis=1)
    lse = jax.nn.logsumexp(of_image, axis=1) + jax.nn.logsumexp(of_text, axis=1)
    if label_smoothing:
        average = (jnp.mean(of_image, axis=1) + jnp.mean(of_text, axis=1)) / 2
        own = own - label_smoothing * (own - average)
    return lse / 2 - own


def contrastive_sigmoid(
    image: Float[Array, "B *Q E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    chunk: int | None = None,
) -> Float[Array, " B"]:
    """Every image-text pair is a yes/no question; summed over the texts for each image.

    SigLIP (arXiv:2303.15343), equation 1: `bias` starts at -10 since nearly all pairs are negative.
    chunk: as for `contrastive_softmax`; section 3.3 of the paper passes texts around likewise.
    """
    if chunk is not None:
        return _sigmoid(_checked(chunk, image), *_in_float32(image, text, scale, bias))
    (texts,) = _everywhere(text)
    logits = scale * _products(image, texts) + bias
    signs = 2.0 * jnp.eye(image.shape[0]) - 1.0
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=1)


def all_products(image: Float[Array, "B *Q E"], text: Float[Array, "B E"]) -> Float[Array, "B B"]:
    """The product of every image with every text, whole on every device; the best of an image's
    vectors counts.
    """
    return _products(*_everywhere(image, text))


def _everywhere(*vectors: Float[Array, "B ..."]) -> Sequence[Float[Array, "B ..."]]:
    """The vectors of all rows on every device, by one exchange. Left to itself, the compiler plans
    six, and devices on few cores that begin with different ones wait for each other for ever.
    """
    if not ring.batch_axes(len(vectors[0])):
        return vectors
    flat = [x.reshape(len(x), -1) for x in vectors]
    ends = list(accumulate(x.shape[1] for x in flat))[:-1]
    parts = jnp.split(constrain(jnp.concatenate(flat, axis=1)), ends, axis=1)
    return [part.reshape(x.shape) for part, x in zip(parts, vectors, strict=True)]


def _products(one: Float[Array, "i *P E"], other: Float[Array, "j *Q E"]) -> Float[Array, "i j"]:
    if one.ndim == 2 and other.ndim == 2:
        return jnp.einsum("iE,jE->ij", one, other, preferred_element_type=jnp.float32)
    several = [x if x.ndim == 3 else x[:, None] for x in (one, other)]
    products = jnp.einsum("iPE,jQE->ijPQ", *several, preferred_element_type=jnp.float32)
    return jnp.max(products, axis=(2, 3))


def _checked(chunk: int, image: Float[Array, "B *Q E"]) -> int:
    if image.ndim > 2:
        raise ValueError(f"chunk={chunk}: images with several vectors meet all texts at once")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: it counts rows, so it is at least 1")
    return chunk


def _in_float32(*arrays: Array) -> list[Array]:
    return [x.astype(jnp.float32) for x in arrays]


def _own_excess(image: Array, text: Array, scale: Array) -> Float[Array, " B"]:
    """By how much the score of each pair exceeds the average of its row and its column, without
    the matrix: the average of products is a product with the average.
    """
    averages = image @ jnp.mean(text, axis=0) + text @ jnp.mean(image, axis=0)
    return scale * (jnp.sum(image * text, axis=1) - averages / 2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax(chunk: int, image: Array, text: Array, scale: Array) -> Float[Array, " B"]:
    return _softmax_forward(chunk, image, text, scale)[0]


def _softmax_forward(chunk: int, image: Array, text: Array, scale: Array) -> tuple[Array, Any]:
    own = scale * jnp.sum(image * text, axis=1)
    known, sums = {"own": own}, {"lse": jnp.full(len(image), -jnp.inf)}
    given = (image, text, sums, sums, known, known)
    rows, columns = _all_pairs(_add_exponentials, chunk, {"scale": scale}, *given)
    loss = (rows["lse"] + columns["lse"]) / 2
    return loss, (image, text, scale, own, rows["lse"], columns["lse"])


def _softmax_backward(chunk: int, kept: Any, gradient: Array) -> tuple[Array, Array, Array]:
    image, text, scale, own, *normalisers = kept
    known = [{"own": own, "lse": lse, "gradient": gradient} for lse in normalisers]
    sums = ({"image": image * 0, "scale": gradient * 0}, {"text": text * 0})
    rows, columns = _all_pairs(
        _add_softmax_gradients, chunk, {"scale": scale}, image, text, *sums, *known
    )
    return scale * rows["image"], scale * columns["text"], jnp.sum(rows["scale"])


_softmax.defvjp(_softmax_forward, _softmax_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sigmoid(chunk: int, image: Array, text: Array, scale: Array, bias: Array) -> Array:
    return _sigmoid_forward(chunk, image, text, scale, bias)[0]


def _sigmoid_forward(
    chunk: int, image: Array, text: Array, scale: Array, bias: Array
) -> tuple[Array, Any]:
    shared = {"scale": scale, "bias": bias}
    sums = ({"loss": jnp.zeros(len(image))}, {})
    rows, _ = _all_pairs(_add_questions, chunk, shared, image, text, *sums)
    return rows["loss"], (image, text, scale, bias)


def _sigmoid_backward(chunk: int, kept: Any, gradient: Array) -> tuple[Array, ...]:
    image, text, scale, bias = kept
    shared, zero = {"scale": scale, "bias": bias}, gradient * 0
    sums = ({"image": image * 0, "scale": zero, "bias": zero}, {"text": text * 0})
    known = ({"gradient": gradient}, {})
    rows, columns = _all_pairs(_add_question_gradients, chunk, shared, image, text, *sums, *known)
    by_vector = (scale * rows["image"], scale * columns["text"])
    return (*by_vector, jnp.sum(rows["scale"]), jnp.sum(rows["bias"]))


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


# What one tile adds to the sums of its rows (images) and of its columns (texts): functions of what
# all tiles share, what is known of this tile's rows and columns, and the sums so far.


def _cosines(row: dict, column: dict) -> tuple[Float[Array, "i j"], Any]:
    """Products of a tile, and where an image meets its own text."""
    cosine = jnp.einsum("iE,jE->ij", row["vector"], column["vector"])
    return cosine, row["number"][:, None] == column["number"][None]


def _beyond_own(scale: Array, row: dict, column: dict) -> tuple[Array, Array, Array, Any]:
    """Products of a tile; its logits minus the image's and minus the text's own (so that small
    losses are no differences of large numbers); where an image meets its own text.
    """
    cosine, same = _cosines(row, column)
    logits = scale * cosine
    minus = lambda own: jnp.where(same, 0, logits - own)
    return cosine, minus(row["own"][:, None]), minus(column["own"][None]), same


def _add_exponentials(shared: dict, row: dict, column: dict, rows: dict, columns: dict):
    _, of_image, of_text, _ = _beyond_own(shared["scale"], row, column)
    add = lambda sums, logits, axis: {
        "lse": jnp.logaddexp(sums["lse"], jax.nn.logsumexp(logits, axis=axis))
    }
    return add(rows, of_image, 1), add(columns, of_text, 0)


def _add_softmax_gradients(shared: dict, row: dict, column: dict, rows: dict, columns: dict):
    cosine, of_image, of_text, same = _beyond_own(shared["scale"], row, column)
    to_text = row["gradient"][:, None] * jnp.exp(of_image - row["lse"][:, None])
    to_image = column["gradient"][None] * jnp.exp(of_text - column["lse"][None])
    slope = (to_text + to_image) / 2 - jnp.where(same, row["gradient"][:, None], 0)
    return _add_slopes(slope, cosine, row, column, rows, columns)


def _add_questions(shared: dict, row: dict, column: dict, rows: dict, columns: dict):
    cosine, same = _cosines(row, column)
    logits = shared["scale"] * cosine + shared["bias"]
    loss = -jnp.sum(jax.nn.log_sigmoid(jnp.where(same, logits, -logits)), axis=1)
    return {"loss": rows["loss"] + loss}, columns


def _add_question_gradients(shared: dict, row: dict, column: dict, rows: dict, columns: dict):
    cosine, same = _cosines(row, column)
    logits = shared["scale"] * cosine + shared["bias"]
    wrong = jnp.where(same, -jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits))
    slope = row["gradient"][:, None] * wrong
    rows = rows | {"bias": rows["bias"] + jnp.sum(slope, axis=1)}
    return _add_slopes(slope, cosine, row, column, rows, columns)


def _add_slopes(
    slope: Array, cosine: Array, row: dict, column: dict, rows: dict, columns: dict
) -> tuple[dict, dict]:
    """The gradients of vectors (but for the scale) and scale, from those of a tile's logits."""
    image = rows["image"] + jnp.einsum("ij,jE->iE", slope, column["vector"])
    text = columns["text"] + jnp.einsum("ij,iE->jE", slope, row["vector"])
    scale = rows["scale"] + jnp.sum(slope * cosine, axis=1)
    return rows | {"image": image, "scale": scale}, {"text": text}


def _all_pairs(
    add: Callable,
    chunk: int,
    shared: dict,
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    rows: dict,
    columns: dict,
    known_rows: dict | None = None,
    known_columns: dict | None = None,
) -> tuple[dict, dict]:
    """The sums over all tiles, rows and columns (dicts of arrays with leading axis B), wherever the
    mesh in force has put their parts. The texts, with their sums, travel.
    """
    numbers = jnp.arange(len(image), dtype=jnp.int32)
    axes = ring.batch_axes(len(image))
    row = {"vector": image, "number": numbers} | (known_rows or {})
    column = {"vector": text, "number": numbers} | (known_columns or {})

    def local(shared: dict, row: dict, column: dict, rows: dict, columns: dict):
        def visit(rows: dict, moving: tuple[dict, dict]):
            column, columns = moving
            rows, columns = _tiles(partial(add, shared), chunk, row, column, rows, columns)
            return rows, (column, columns)

        rows, (_, columns) = ring.travel(visit, axes, rows, (column, columns))
        return rows, columns

    run = ring.split(local, ((), axes, axes, axes, axes), (axes, axes))
    return run(shared, row, column, rows, columns)


def _tiles(
    add: Callable, chunk: int, row: dict, column: dict, rows: dict, columns: dict
) -> tuple[dict, dict]:
    """`add` for all pairs of a block of at most `chunk` rows with one of as many columns."""
    count = len(row["number"])
    size = max(size for size in range(1, min(chunk, count) + 1) if count % size == 0)
    cut = partial(jax.tree.map, lambda x: x.reshape(-1, size, *x.shape[1:]))
    join = partial(jax.tree.map, lambda x: x.reshape(-1, *x.shape[2:]))

    def one_row(columns: dict, given: tuple[dict, dict]):
        row, rows = given

        def one_tile(rows: dict, given: tuple[dict, dict]):
            column, columns = given
            return add(row, column, rows, columns)

        rows, columns = jax.lax.scan(one_tile, rows, (column, columns))
        return columns, rows

    column = cut(column)
    columns, rows = jax.lax.scan(one_row, cut(columns), (cut(row), cut(rows)))
    return join(rows), join(columns)
