"""A reference's calls in our terms: its arguments in, its outputs' names out.

The arrays are those of the reference: pixel_values [B, 3, H, W] f32, input_ids and attention_mask
[B, T]. Everything is traceable; gradients pass through all but `generate`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_jax import decode
from vlm_jax.types import Features

Inputs = Mapping[str, Any]
Read = Callable[[Any, Inputs], tuple[Features | None, dict[str, Any]]]
"""(apply, inputs) -> what a decoder is given: a memory, and tokens, tokens_mask and prefix, and by
name what else it takes.
"""


def nhwc(pixels: Any) -> Any:
    """[B, 3, H, W] as [B, H, W, 3], or the same of frames, [B, F, 3, H, W]."""
    return jnp.moveaxis(pixels, -3, -1)


def text_inputs(inputs: Inputs) -> dict[str, Any]:
    """input_ids and attention_mask (all ones if absent) as what a text encoder of ours reads."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    return {"text": ids, "text_mask": jnp.ones(ids.shape, bool) if mask is None else mask != 0}


def decoder_inputs(inputs: Inputs) -> dict[str, Any]:
    """The same as what a decoder of ours reads, without a prompt."""
    given = text_inputs(inputs)
    prefix = jnp.zeros(len(given["text"]), jnp.int32)
    return {"tokens": given["text"], "tokens_mask": given["text_mask"], "prefix": prefix}


def contrast(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """Embeddings and their scaled products, as every dual encoder gives them."""
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    return contrasted(apply, visual, text_inputs(inputs))


def contrast_and_tokens(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """The same and the last states of both towers, where ours hands on all that the reference's
    does.
    """
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    return with_tokens(apply, visual, text_inputs(inputs))


def with_tokens(apply: Any, visual: Features, given: Mapping) -> dict[str, Any]:
    """`contrasted`, and image_tokens and text_tokens, the last states of both towers."""
    tokens = {
        "image_tokens": visual.tokens,
        "text_tokens": apply(given, method="encode_text").tokens,
    }
    return contrasted(apply, visual, given) | tokens


def contrasted(apply: Any, visual: Features, given: Mapping) -> dict[str, Any]:
    """Embeddings and products of images that were read and of a text encoder's inputs."""
    found = apply(visual, given, method="contrast")
    images, texts = found["image_embeds"], found["text_embeds"]
    logits = found["scale"] * images @ texts.T
    logits = logits + found["bias"] if "bias" in found else logits
    return {
        "image_embeds": images,
        "text_embeds": texts,
        "logits_per_image": logits,
        "logits_per_text": jnp.transpose(logits),
    }


def classifies(apply: Any) -> bool:
    """Whether the vision encoder ends in class scores."""
    return apply(method=lambda model: model.vision.classes is not None)


def read_text(apply: Any, inputs: Inputs) -> tuple[None, dict[str, Any]]:
    """What a language model without images is given."""
    return None, decoder_inputs(inputs)


def read_picture(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """A memory of the picture, if there is one, and the text."""
    given = decoder_inputs(inputs)
    if "pixel_values" not in inputs:
        return None, given
    return apply(nhwc(inputs["pixel_values"]), given, method="read"), given


def read_pictures(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """Any number of pictures, of which each text has as many as its image tokens hold."""
    given = decoder_inputs(inputs)
    if "pixel_values" not in inputs:
        return None, given
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    return apply(visual, given["tokens"], method="deal"), given


def language(read: Read, padding_counts: bool = False) -> dict[str, Callable]:
    """The calls of a model that writes text: forward (logits) and generate (tokens).

    padding_counts: the reference's forward pass counts padding as positions unless it is given
    position_ids; where it generates, it counts real tokens only, as ours always does.
    """

    def forward(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
        memory, given = read(apply, inputs)
        mask, prefix = given["tokens_mask"], given["prefix"]
        decode = dict(mask=mask, prefix=prefix, method="decode")
        if padding_counts or "position_ids" in inputs:
            own = inputs.get("position_ids")
            decode |= dict(positions=every_position(apply, memory, given["tokens"], own))
        logits, _ = apply(given["tokens"], memory, **decode, **others(given))
        return {"logits": logits}

    def generate(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
        if "input_ids" not in inputs:
            rows = len(next(iter(inputs.values())))
            inputs = {**inputs, "input_ids": jnp.full((rows, 1), first_token(flags), jnp.int32)}
        memory, given = read(apply, inputs)
        found = search(apply, memory, given, flags)
        return {"tokens": after_prompt(given["tokens"], found)}

    return {"forward": forward, "generate": generate}


def every_position(
    apply: Any, memory: Features | None, tokens: Array, own: Array | None = None
) -> Array:
    """0, 1, 2, ... of memory, where it stands before the text, and text, i32[B, L]. own: the text's
    positions, i32[B, T], from 0 on. ValueError for positions with several axes.
    """
    before = memory is not None and apply(method=lambda model: model.decoder.memory) == "prepend"
    held = memory.tokens.shape[1] if memory is not None and before else 0
    every = jnp.broadcast_to(
        jnp.arange(held + tokens.shape[1])[None], (len(tokens), held + tokens.shape[1])
    )
    if own is None:
        return every
    if own.ndim != 2 or apply(method=lambda model: model.decoder.rope_sections):
        raise ValueError("position_ids along several axes are not supported: leave them out")
    text = jnp.broadcast_to(own, tokens.shape) + held
    return jnp.concatenate([every[:, :held], text], axis=1).astype(jnp.int32)


def others(given: Mapping) -> dict[str, Any]:
    """What this decoder takes besides tokens and prompts."""
    return {key: given[key] for key in given if key not in ("tokens", "tokens_mask", "prefix")}


def first_token(flags: Mapping) -> int:
    """The token that a text starts with where the caller gives none. ValueError if unknown."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        if flags.get(name) is not None:
            return int(flags[name])
    raise ValueError("generate needs input_ids, or the flag bos_token_id")


def search(apply: Any, memory: Features | None, given: Inputs, flags: Mapping) -> Array:
    """The best text for each row, i32[B, n], by the reference's flags; pad after its end."""
    rows = len(given["tokens"])
    batch = {} if memory is not None else {"batch": rows}
    found = decode.generate(
        partial(apply, method="decode", **others(given)),
        partial(apply, method="init_cache", **batch),
        *(given["tokens"], given["tokens_mask"], memory, search_of(flags)),
        prefix=given["prefix"],
    )
    return found.tokens


def after_prompt(prompt: Array, found: Array) -> Array:
    """Prompt and text side by side, i32[B, P + n]."""
    return jnp.concatenate([prompt, found], axis=1)


SEARCH_FLAGS = {
    "max_new_tokens": "max_length",
    "min_new_tokens": "min_length",
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "pad_token_id": "pad",
}
"""The reference's flags and what `decode.Search` calls them."""

PASSIVE_FLAGS = {"do_sample": (False,), "use_cache": (True, False), "num_return_sequences": (1,)}
"""Flags that change nothing, and the values for which that is so."""

TOKEN_FLAGS = ("eos_token_id", "bos_token_id", "decoder_start_token_id", "sep_token_id")


def search_of(flags: Mapping) -> decode.Search:
    """`decode.Search` of the reference's flags. ValueError for one that is not known here."""
    known = {*SEARCH_FLAGS, *PASSIVE_FLAGS, *TOKEN_FLAGS}
    for name, value in flags.items():
        if name not in known:
            raise ValueError(f"generate: unknown flag {name!r}; known: {', '.join(sorted(known))}")
        if name in PASSIVE_FLAGS and value not in PASSIVE_FLAGS[name]:
            raise ValueError(f"generate: {name}={value!r} is not supported")
    options: dict[str, Any] = {
        ours: flags[name] for name, ours in SEARCH_FLAGS.items() if flags.get(name) is not None
    }
    ends = flags.get("eos_token_id")
    ends = [] if ends is None else np.atleast_1d(ends).tolist()
    options.setdefault("pad", ends[0] if ends else 0)
    options.setdefault("max_length", 20)
    return decode.Search(**options, eos=tuple(ends))
