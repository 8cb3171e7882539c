"""Read first: the letters, the one value that crosses between components, and the names of batch
fields.

Letters in shapes, everywhere in this codebase:

    B batch      T text length      S memory length (image tokens, retrieved tokens, frames)
    H W image    D width            N heads         K head dimension
    V vocabulary Q queries          C classes       E size of a shared embedding space
    L layers     M slots of a preallocated key/value cache

A batch is a nested dict of arrays. Shared by all tasks:

    image   uint8[B, H, W, 3]   RGB in [0, 255]; or f32[B, S, D], features computed beforehand
    audio   uint8[B, F, W]      log-mel spectrogram of F bins and W frames (see data.audio)
    index   i32[B]              position of the example in its source
    valid   bool[B]             False on rows that only fill up the last evaluation batch

and one sub-dict per task name, each using some of:

    text, text_mask       i32, bool[B, T]   what the text encoder reads (question, caption)
    text_with_image       i32[B, T]         the text as it is read with an image, if that differs
    picture_id, text_id   u32[B]            fingerprints: equal for the same picture, the same text
    said_ids              u32[B, N]         fingerprints of texts that are true of the picture
    retrieved, ..._mask   i32, bool[B, K, T] texts of K similar images, for the text encoder
    tokens, tokens_mask   i32, bool[B, T]   what the decoder reads, and which of it is real
    prefix                i32[B]            how many leading decoder tokens are prompt
    targets               i32[B, T]         the token to predict at each position
    targets_mask          bool[B, T]        the positions that count in the loss
    label                 i32[B]            class index
    label_weights         f32[B, C]         soft class targets in [0, 1]
    known                 bool[B]           False: the true answer is not among the classes
    region_labels         i32[B, G, S]      for each kind of label its index at each image token
    region_mask           bool[B, G, S]     the tokens whose label is known
    matched               bool[B]           False: the text of another row is shown instead
    hidden                bool[B, S]        image tokens that are to be guessed from the others
    time, noise           f32, u32[B]       where on the way from noise to image; the noise's seed

A task whose config says per_image = N > 1 has N texts of each image in a training batch: all of its
fields then have one more axis N after B, and the train step joins the two to B * N rows.

Padding is token id 0 in every tokenizer made here, and what a published one says in others.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Batch = Mapping[str, Any]
"""Nested dict of arrays as described in the module docstring."""

Variables = Mapping[str, Any]
"""Flax variables: {"params": ...} and, for models with batch normalisation, {"batch_stats": ...}.
"""

Cache = Mapping[str, Any]
"""Everything a decoder remembers between steps: a pytree of arrays whose axis 0 counts layers and
axis 1 is the batch.

Slots are shared by the rows of a batch: the next token of every row goes to slot
`cache["slot"][0, b]`, which is equal for all b; `cache["hypotheses"]["read"]` says which slots hold
what each continuation of a row has read, so ragged prompts need no re-packing and a search over
several continuations moves no keys and values (see layers.cache and decode.hypotheses). A cache
without that entry, such as an LSTM's, has a row per continuation. The entry `cache["memory"]`, if
there is one, is the same for all continuations of a row.
"""

CACHE_BATCH_AXIS = 1


class Features(NamedTuple):
    """A set of vectors that something else may attend to.

    tokens: f32[B, S, D]. mask: bool[B, S], True where a token is real. pooled: f32[B, D], or None
    if the encoder has no summary of its own. places: i32[B, S, 3], the frame, row and column where
    each token lies, from those encoders that tell. Image tokens are in row-major order of the image
    grid, unless the encoder says otherwise.
    """

    tokens: Float[Array, "B S D"]
    mask: Bool[Array, "B S"]
    pooled: Float[Array, "B D"] | None = None
    places: Int[Array, "B S 3"] | None = None


def summary(features: Features) -> Float[Array, "B D"]:
    """One vector per example: `pooled` if the encoder made one, else the mean of the real tokens
    (zeros if none).
    """
    if features.pooled is not None:
        return features.pooled
    mask = features.mask[..., None].astype(features.tokens.dtype)  # [B, S, 1]
    return jnp.sum(features.tokens * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)


def concatenate(first: Features, second: Features) -> Features:
    """Both token sets side by side, [B, S1 + S2, D]; no pooled vector. ValueError if the widths
    differ.
    """
    if first.tokens.shape[-1] != second.tokens.shape[-1]:
        raise ValueError(
            f"cannot concatenate Features of widths {first.tokens.shape[-1]} and "
            f"{second.tokens.shape[-1]}: project one of them first"
        )
    return Features(
        jnp.concatenate([first.tokens, second.tokens], axis=1),
        jnp.concatenate([first.mask, second.mask], axis=1),
    )


def gather_rows(cache: Cache, rows: Any) -> Cache:
    """The cache with its batch axis re-indexed: rows i32[B'] into [0, B). Used by beam search to
    follow its parents.
    """
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=CACHE_BATCH_AXIS), cache)
