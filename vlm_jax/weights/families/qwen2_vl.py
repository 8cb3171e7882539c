"""Qwen2-VL (arXiv:2409.12191): `Qwen2VLForConditionalGeneration` folders.

Images of all sizes come as one row of patches, with the shapes of their grids beside it.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_jax.layers.embed import insert
from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, decoder_inputs, language
from vlm_jax.weights.families import llama, qwen2
from vlm_jax.weights.family import (
    Config,
    Family,
    activation,
    caption_example,
    one_of,
    require,
    square,
    writing_tasks,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Form, Rule, Rules, dense, fused_attention, norm

DEFAULTS: dict[str, Any] = dict(image_token_id=151655, tie_word_embeddings=False)
TEXT: dict[str, Any] = dict(
    vocab_size=152064,
    hidden_size=8192,
    intermediate_size=29568,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    max_window_layers=80,
)
VISION: dict[str, Any] = dict(
    depth=32,
    embed_dim=1280,
    hidden_size=3584,
    hidden_act="quick_gelu",
    mlp_ratio=4,
    num_heads=16,
    in_channels=3,
    patch_size=14,
    spatial_merge_size=2,
    temporal_patch_size=2,
)
"""What a config.json that leaves a key out means by it."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The config, its text and its vision section, with everything filled in.

    Published files have the text's keys beside the others.
    """
    config = DEFAULTS | dict(config)
    given = dict(config.get("text_config") or config)
    tied = config["tie_word_embeddings"] or given.get("tie_word_embeddings", False)
    own = dict(tie_word_embeddings=bool(tied), head_dim=None)
    vision = VISION | dict(config.get("vision_config") or {})
    return config, TEXT | given | own, vision


def rope(text: Config) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Rotary positions, and how many pairs of channels turn with frame, row and column by turns."""
    given = dict(text.get("rope_scaling") or text.get("rope_parameters") or {})
    kind = given.get("rope_type", given.get("type", "default"))
    theta = given.get("rope_theta", text.get("rope_theta", 1_000_000.0))
    plain = given | dict(rope_theta=theta, rope_type="default" if kind == "mrope" else kind)
    turning = tuple(given.get("mrope_section", (16, 24, 24)))
    pairs = text["hidden_size"] // text["num_attention_heads"] // 2
    if sum(turning) != pairs:
        raise WeightsError(
            f"config.json: mrope_section={list(turning)} must sum to {pairs}, half a head's width"
        )
    return llama.rope(dict(rope_parameters=plain)), turning


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, text, vision = sections(config)
    patch, side, width = (
        square(vision, "patch_size"),
        vision["spatial_merge_size"],
        vision["embed_dim"],
    )
    require(vision, in_channels=3)
    turns = dict(rope_type="default") | dict(vision.get("rope_parameters") or {})
    theta = turns.get("rope_theta", 10_000.0)
    one_of(turns, "rope_type", dict.fromkeys(("default", "axial")))
    one_rope, turning = rope(text)
    return dict(
        vision=dict(
            name="vit",
            patch=patch,
            image_size=patch * side,
            width=width,
            layers=vision["depth"],
            heads=vision["num_heads"],
            mlp_width=int(width * vision["mlp_ratio"]),
            activation=activation(vision),
            positions="rotary",
            theta=float(theta),
            block=side,
            frames=square(vision, "temporal_patch_size"),
            class_token=False,
            pooling="none",
            patch_bias=False,
            final_norm=False,
        ),
        connector=dict(
            name="merge", side=side, norm="layer", widths=(width * side**2, vision["hidden_size"])
        ),
        decoder=qwen2.fields(text | dict(rope_scaling=None, rope_parameters=None))
        | dict(
            ropes=(one_rope,),
            rope_sections=turning,
            memory="insert",
            image_token=config["image_token_id"],
            memory_projection=False,
        ),
    )


def patch_form(vision: Config) -> Form:
    """A convolution over frames, rows and columns as a matrix on (frame, row, column, channel)."""
    size = square(vision, "patch_size")
    shape = (square(vision, "temporal_patch_size"), size, size, vision["in_channels"])

    def read(x: np.ndarray) -> np.ndarray:
        return x.transpose(2, 3, 4, 1, 0).reshape(-1, x.shape[0])

    def write(x: np.ndarray) -> np.ndarray:
        return x.reshape(*shape, -1).transpose(4, 3, 0, 1, 2)

    return Form(read, write)


def rules(config: Config) -> Rules:
    """The mapping table."""
    _, text, vision = sections(config)
    layers, theirs = "vision/transformer/layers", "visual.blocks.{}"
    fused = f"{theirs}.attn.qkv"
    return [
        Rule("vision/patch_embedding/kernel", "visual.patch_embed.proj.weight", patch_form(vision)),
        *norm(f"{layers}/self_norm", f"{theirs}.norm1"),
        *norm(f"{layers}/mlp_norm", f"{theirs}.norm2"),
        *fused_attention(
            f"{layers}/self_attention", f"{fused}.weight", f"{fused}.bias", f"{theirs}.attn.proj"
        ),
        *dense(f"{layers}/mlp/up", f"{theirs}.mlp.fc1"),
        *dense(f"{layers}/mlp/down", f"{theirs}.mlp.fc2"),
        *norm("connector/norm", "visual.merger.ln_q"),
        *dense("connector/mlp/dense_0", "visual.merger.mlp.0"),
        *dense("connector/mlp/dense_1", "visual.merger.mlp.2"),
        *qwen2.lm_rules(text),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture of one token and two words."""
    _, _, vision = sections(config)
    return caption_example(square(vision, "patch_size") * vision["spatial_merge_size"])


KINDS = (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"))
"""What images and videos come as, in the order of their numbers in mm_token_type_ids, from 1."""


def read(apply: Any, inputs: Inputs) -> tuple[Features | None, dict[str, Any]]:
    """Patches, pixel_values [P, 3 * frames * rows * columns] with image_grid_thw [N, 3], the same
    of videos; and the text. ValueError for videos without mm_token_type_ids [B, T], which say where
    they stand.
    """
    given = decoder_inputs(inputs)
    if KINDS[1][0] not in inputs:
        if KINDS[0][0] not in inputs:
            return None, given
        visual = see(apply, inputs, *KINDS[0])
        given["image_tokens"] = visual.tokens[0]
        return apply(visual, given["tokens"], method="deal"), given
    if "mm_token_type_ids" not in inputs:
        raise ValueError("pixel_values_videos needs mm_token_type_ids, which say where videos are")
    token = apply(method=lambda network: network.decoder.image_token)
    types = inputs["mm_token_type_ids"]
    given = given | {"tokens": jnp.where(types > 0, token, given["tokens"])}
    parts = [jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)]
    for number, kind in enumerate(KINDS, 1):
        if kind[0] in inputs:
            here = types == number
            visual = see(apply, inputs, *kind)
            given |= {"image_tokens": visual.tokens[0]} if kind is KINDS[0] else {}
            own = apply(visual, jnp.where(here, token, -1), method="deal")
            known = (own.tokens, own.places)
            parts = [
                insert(jnp.zeros((*here.shape, x.shape[-1]), x.dtype), here, x, own.mask) + part
                for x, part in zip(known, parts, strict=True)
            ]
    return Features(parts[0], types > 0, None, parts[1]), given


def see(apply: Any, inputs: Inputs, name: str, grid: str) -> Features:
    """All images, or all videos, in one row."""
    frames, patch, side = apply(method=lambda network: _sizes(network.vision))
    pixels = inputs[name]
    cut = pixels.reshape(len(pixels), -1, frames, patch, patch).transpose(0, 2, 3, 4, 1)
    places, segments = packed(inputs[grid], len(pixels), side)
    where = dict(places=places[None], segments=segments[None], method="encode_image")
    return apply(cut.reshape(1, len(pixels), -1), **where)


def generate(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """tokens, whose prompt is as it was given: for the decoder, videos are images."""
    found = language(read)["generate"](apply, inputs, flags)["tokens"]
    if "input_ids" not in inputs:
        return {"tokens": found}
    prompt = jnp.asarray(inputs["input_ids"])
    prompt = jnp.repeat(prompt, len(found) // len(prompt), axis=0)
    return {"tokens": jnp.concatenate([prompt, found[:, prompt.shape[1] :]], axis=1)}


def _sizes(vision: Any) -> tuple[int, int, int]:
    return vision.frames, vision.patch, vision.block


def packed(grids: Array, count: int, side: int) -> tuple[Array, Array]:
    """Frame, row and column i32[P, 3] of each of `count` patches of images, frames, rows and
    columns `grids` i32[N, 3], in blocks of side x side; and the number of its frame among all,
    from 1, or 0 beyond the last image.
    """
    grids, number = jnp.asarray(grids, jnp.int32), jnp.arange(count)
    ends = jnp.cumsum(jnp.prod(grids, axis=1))
    image = jnp.searchsorted(ends, number, side="right")
    known = image < len(grids)
    image = jnp.minimum(image, len(grids) - 1)
    rows, columns = grids[:, 1][image], grids[:, 2][image]
    inside = number - (ends - jnp.prod(grids, axis=1))[image]
    frame, inside = inside // (rows * columns), inside % (rows * columns)
    block, inside = inside // side**2, inside % side**2
    across = columns // side
    row = block // across * side + inside // side
    column = block % across * side + inside % side
    before = (jnp.cumsum(grids[:, 0]) - grids[:, 0])[image]
    places = jnp.stack([frame, row, column], axis=-1)
    return places, jnp.where(known, before + frame + 1, 0)


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layer where it is the embedding."""
    tied = sections(config)[1]["tie_word_embeddings"]
    return (r".*rotary.*inv_freq", *((r"lm_head\.weight",) if tied else ()))


def tasks(config: Config) -> dict[str, Any]:
    """Turns of the chat of the instruction-tuned models, after their usual system message."""
    begins = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    turn = "<|im_start|>user\n{picture}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    around = "<|vision_start|>{picture}<|vision_end|>"
    chat = dict(begins=begins, turn=turn, around=around, between="\n", ends="<|im_end|>")
    template = begins + turn.replace("{picture}", around)
    picture = dict(name="run", token=sections(config)[0]["image_token_id"])
    lengths: Any = dict(length=128, question_length=256, chat=chat)
    return writing_tasks(template, prompt="Describe this image.", picture=picture, **lengths)


QWEN2_VL = Family(
    model,
    rules,
    example,
    calls=language(read) | {"generate": generate},
    renames=((r"^model\.visual\.", "visual."), (r"^model\.language_model\.", "model.")),
    ignored=ignored,
    tasks=tasks,
)
