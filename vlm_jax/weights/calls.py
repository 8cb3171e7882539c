"""A reference's calls in our terms: its arguments in, its outputs' names out.

The arrays are those of the reference: pixel_values [B, 3, H, W] f32, input_ids and attention_mask
[B, T]. Everything is traceable; gradients pass through all but `generate`. What the names mean:

    logits        scores of words, classes or answers
    tokens        last_hidden_state, or where an output has none the last of its hidden_states, of
                  the decoder if it has two stacks (T5); ids where texts are generated. BLIP's
                  outputs call the image's states so: these or the text's are meant. hidden_states
                  of ViT and ViLT are before the last norm: these or those after it
    pooled        pooler_output, of a dual encoder that of either tower before its projection, of
                  BLIP and BLIP-2 that of the image tower, or of the Q-Former
    image_tokens  the last states of an image tower: vision_model_output, vision_outputs (BLIP,
                  BLIP-2), vision_output (LXMERT); image_hidden_states, which are after the
                  projection or the resampler, of LLaVA, PaliGemma, Gemma 3, Idefics 1 and 3 and
                  Qwen2-VL; of GIT either the tower's or the projected ones; the final map
                  [B, C, H, W] of a convolutional network
    text_tokens   the same of a text tower; encoder_last_hidden_state of T5; the question of BLIP
    queries       the last states of BLIP-2's Q-Former
    features      of an image network, the vector before its classifier, or its final map
    image_embeds  what the outputs of dual encoders, BLIP and BLIP-2 call so, and text_embeds
    score         of the match, or of the contrast where it is asked in its place

"NAME:KIND" is another array that is as likely to be meant by NAME: see `check`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from vlm_jax import decode
from vlm_jax.layers.apart import stepper
from vlm_jax.types import Features
from vlm_jax.weights.generation import first_token, search_of

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
    """`contrasted`, image_tokens and text_tokens, the last states of both towers, and pooled."""
    text = apply(given, method="encode_text")
    pooled = {"pooled": visual.pooled, "pooled:text": text.pooled}
    states = {"image_tokens": visual.tokens, "text_tokens": text.tokens}
    states |= {name: x for name, x in pooled.items() if x is not None}
    return contrasted(apply, visual, given) | states


SEEN = ("image_tokens", "image_tokens:tower", "text_tokens")
"""What a `Read` may give besides a decoder's inputs: states that are outputs, too."""


UNNORMED = "before_final_norm"
"""What follows a transformer's path where its states before its last norm are wanted."""


def observed(apply: Any, path: tuple[str, ...], *args: Any, **given: Any) -> tuple[Any, Any]:
    """What apply gives, and what the module at `path` gave on its first call, or the first part of
    it where that is a plain tuple. path: such as ("decoder", "transformer"), perhaps with UNNORMED.
    """
    keep = lambda module, method: module.path == path and method == "__call__"
    options = dict(capture_intermediates=keep, mutable=["intermediates"])
    found, states = apply(*args, **given, **options)
    states = states["intermediates"]
    for name in (*path, "__call__") if path[-1] != UNNORMED else path:
        states = states[name]
    state = states[0]
    return found, state[0] if type(state) is tuple else state


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


def convolutional(visual: Features, pixels: Any) -> dict[str, Any]:
    """Of a convolutional network's tokens [B, H * W, C]: image_tokens, its last map [B, C, H, W];
    pooled and features, the mean of it [B, C]; features:map. pixels: [B, 3, rows, columns], whose
    sides were halved, rounding up, as often as needed.
    """
    batch, size, width = visual.tokens.shape
    rows, columns = pixels.shape[2:]
    while rows * columns > size:
        rows, columns = -(-rows // 2), -(-columns // 2)
    image = visual.tokens.transpose(0, 2, 1).reshape(batch, width, rows, columns)
    pooled = image.mean((2, 3))
    features = {"features": pooled, "features:map": image}
    return {"image_tokens": image, "pooled": pooled} | features


def read_text(apply: Any, inputs: Inputs) -> tuple[None, dict[str, Any]]:
    """What a language model without images is given."""
    return None, decoder_inputs(inputs)


def read_picture(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """A memory of the picture, if there is one, and the text."""
    given = decoder_inputs(inputs)
    if "pixel_values" not in inputs:
        return None, given
    pixels = nhwc(inputs["pixel_values"])
    memory, seen = observed(apply, ("vision",), pixels, given, method="read")
    return memory, given | {"image_tokens": memory.tokens, "image_tokens:tower": seen.tokens}


def read_pictures(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """Any number of pictures, of which each text has as many as its image tokens hold."""
    given = decoder_inputs(inputs)
    if "pixel_values" not in inputs:
        return None, given
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    memory = apply(visual, given["tokens"], method="deal")
    return memory, given | {"image_tokens": visual.tokens}


STATES = ("decoder", "transformer")
"""The module whose outputs are a decoder's last states."""


def language(
    read: Read, padding_counts: bool = False, states: tuple[str, ...] = STATES
) -> dict[str, Callable]:
    """The calls of a model that writes text: forward (logits, tokens and what `read` has SEEN) and
    generate (tokens). states: path of the module that gives the tokens.

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
        text = given["tokens"]
        found, tokens = observed(apply, states, text, memory, **decode, **others(given))
        seen = {name: given[name] for name in SEEN if name in given}
        return {"logits": found[0], "tokens": tokens[:, -text.shape[1] :]} | seen

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
    known = ("tokens", "tokens_mask", "prefix", *SEEN)
    return {key: given[key] for key in given if key not in known}


def search(apply: Any, memory: Features | None, given: Inputs, flags: Mapping) -> Array:
    """The best text for each row, i32[B, n], by the reference's flags; pad after its end. With
    num_return_sequences > 1, the K best ones, i32[B, K, n].
    """
    rows, prompt = given["tokens"].shape
    batch = {} if memory is not None else {"batch": rows}
    longest = apply(method=lambda network: getattr(network.decoder, "max_length", None))
    room = None if longest is None else max(longest - prompt, 1)
    wanted = search_of(flags, prompt, room)
    network, variables = apply(method=lambda network: network.unbind())
    found = decode.generate(
        partial(apply, method="decode", **others(given)),
        partial(apply, method="init_cache", **batch),
        *(given["tokens"], given["tokens_mask"], memory, wanted),
        prefix=given["prefix"],
        step=stepper(network, variables, **others(given)),
    )
    return found.tokens


def after_prompt(prompt: Array, found: Array) -> Array:
    """Prompt and text side by side, i32[B, P + n], or [B * K, P + n] of K texts for a prompt."""
    if found.ndim == 3:
        prompt = jnp.repeat(prompt, found.shape[1], axis=0)
        found = found.reshape(-1, found.shape[2])
    return jnp.concatenate([prompt, found], axis=1)
