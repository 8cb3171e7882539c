"""What training minimises, of a folder's model: (apply, inputs, forward) -> f32[B].

apply: of the model, with its variables. forward: the family's call, (apply, inputs) -> outputs.
"""

import jax.numpy as jnp

from vlm_jax.losses import (
    binary_cross_entropy,
    masked_cross_entropy,
    softmax_cross_entropy,
    written_cross_entropy,
)
from vlm_jax.weights import calls

UNSEEN = -100
"""The label of a token that the reference's losses pass over."""


def written(apply, inputs, forward, smoothing=0.0):
    """Cross-entropy of labels [B, T] that stand where the logits do."""
    seen = inputs["labels"] != UNSEEN
    targets = jnp.where(seen, inputs["labels"], 0)
    logits = forward(apply, inputs)["logits"]
    return masked_cross_entropy(logits, targets, seen, label_smoothing=smoothing)


def next_words(apply, inputs, forward, smoothing=0.0):
    """The same of labels that stand one token later."""
    moved = jnp.pad(inputs["labels"][:, 1:], ((0, 0), (0, 1)), constant_values=UNSEEN)
    return written(apply, inputs | dict(labels=moved), forward, smoothing)


def in_blocks(apply, inputs, forward):
    """`next_words`, of which the scores of 16 words at a time are computed."""
    targets = jnp.pad(inputs["labels"][:, 1:], ((0, 0), (0, 1)))
    mask = jnp.arange(targets.shape[1])[None] < targets.shape[1] - 1
    batch = dict(targets=targets, targets_mask=jnp.broadcast_to(mask, targets.shape))
    outputs = apply(None, calls.decoder_inputs(inputs), method="unembed")
    return written_cross_entropy(outputs, batch, block=16)


def picture(apply, inputs):
    """Features of pictures."""
    return apply(calls.nhwc(inputs["pixel_values"]), method="encode_image")


def contrast(loss, extra=(), see=picture, read=calls.text_inputs):
    def scored(apply, inputs, forward):
        found = apply(see(apply, inputs), read(inputs), method="contrast")
        names = ("image_embeds", "text_embeds", "scale", *extra)
        return loss(*(found[name] for name in names))

    return scored


def contrast_of(named, loss, extra=()):
    """The same of inputs under other names. named: inputs -> those of transformers."""
    see = lambda apply, inputs: picture(apply, named(inputs))
    return contrast(loss, extra, see, lambda inputs: calls.text_inputs(named(inputs)))


def chosen(apply, inputs, forward):
    """One class of several."""
    labels = inputs["labels"]
    labels = labels if labels.ndim == 1 else jnp.argmax(labels, axis=1)
    return softmax_cross_entropy(forward(apply, inputs)["logits"], labels)


def voted(apply, inputs, forward):
    """Every class by itself, against its share of the votes."""
    return binary_cross_entropy(forward(apply, inputs)["logits"], inputs["labels"])


def words_and_match(apply, inputs, forward):
    """Masked words, and whether image and text belong together."""
    names = ("matched_label", "sentence_image_labels", "next_sentence_label")
    match = next(inputs[name] for name in names if name in inputs)
    score = forward(apply, inputs)["score"]
    return written(apply, inputs, forward) + softmax_cross_entropy(score, match)
