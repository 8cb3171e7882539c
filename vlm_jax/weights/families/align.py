"""ALIGN (arXiv:2102.05918) as reproduced for the COYO data set: `AlignModel` folders,
EfficientNet-B7 beside a BERT-base whose first state is projected.
"""

import math
from typing import Any

from vlm_jax.encoders.efficientnet import channels_of
from vlm_jax.weights.calls import Inputs, contrasted, nhwc
from vlm_jax.weights.families import bert
from vlm_jax.weights.family import (
    TWO_WORDS,
    Config,
    Family,
    activation,
    of_class,
    picture,
    require,
    sides,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.fused_calls import typed_inputs
from vlm_jax.weights.rules import Rule, Rules, batch_norm, convolution, dense

VISION: dict[str, Any] = dict(
    image_size=600,
    width_coefficient=2.0,
    depth_coefficient=3.1,
    depth_divisor=8,
    kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
    in_channels=[32, 16, 24, 40, 80, 112, 192],
    out_channels=[16, 24, 40, 80, 112, 192, 320],
    depthwise_padding=[],
    strides=[1, 2, 2, 2, 1, 2, 1],
    num_block_repeats=[1, 2, 2, 3, 3, 4, 1],
    expand_ratios=[1, 6, 6, 6, 6, 6, 6],
    squeeze_expansion_ratio=0.25,
    hidden_act="swish",
    batch_norm_eps=1e-3,
)
"""What a config.json that leaves a key out means by it."""

LISTS = ("kernel_sizes", "strides", "expand_ratios", "in_channels", "out_channels")
LISTS += ("num_block_repeats",)

STEM = 32
"""Channels of the first convolution before they are scaled."""

LONGEST, SMOOTHING = 64, 0.1
"""Tokens of a text, and label smoothing of the loss, in the reproduction."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text and the vision section, filled in. WeightsError for stages that do not follow each
    other, or do not end at the width of the texts' projection.
    """
    of_class(config, "AlignModel")
    text = bert.filled(dict(config.get("text_config") or {}))
    vision = VISION | dict(config.get("vision_config") or {})
    require(vision, num_channels=3, pooling_type="mean")
    if len({len(vision[key]) for key in LISTS}) > 1 or {*vision["strides"]} - {1, 2}:
        given = {key: vision[key] for key in LISTS}
        raise WeightsError(
            f"config.json: {given} do not say as many stages each, with strides of 1 or 2"
        )
    entering, leaving = (channels(vision, key) for key in ("in_channels", "out_channels"))
    if entering != [stem(vision), *leaving[:-1]]:
        raise WeightsError(
            f"config.json: in_channels={vision['in_channels']} are not {STEM} and what the stages "
            f"before have in out_channels={vision['out_channels']}"
        )
    if leaving[-1] != config.get("projection_dim", 640):
        raise WeightsError(
            f"config.json: projection_dim={config.get('projection_dim', 640)} is not the width "
            f"{leaving[-1]} of the last stage"
        )
    return text, vision


def channels(vision: Config, key: str) -> list[int]:
    """Those of all stages, scaled."""
    return [scaled(vision, count) for count in vision[key]]


def scaled(vision: Config, count: int) -> int:
    """So many channels at this size."""
    return int(channels_of(count, vision["width_coefficient"], vision["depth_divisor"]))


def stem(vision: Config) -> int:
    """Channels of the first convolution."""
    return scaled(vision, STEM)


def rows(vision: Config) -> list[tuple[int, int, int, int, int]]:
    """The stages as `EfficientNet.rows`."""
    depth, leaving = vision["depth_coefficient"], channels(vision, "out_channels")
    blocks = [math.ceil(depth * count) for count in vision["num_block_repeats"]]
    parts = (vision["kernel_sizes"], vision["strides"], vision["expand_ratios"], leaving, blocks)
    return list(zip(*parts, strict=True))


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    text, vision = sections(config)
    return dict(
        vision=dict(
            name="efficientnet",
            rows=rows(vision),
            stem=stem(vision),
            head=None,
            squeeze=vision["squeeze_expansion_ratio"],
            activation=activation(vision),
            epsilon=vision["batch_norm_eps"],
            skip_first=False,
            padded=vision["depthwise_padding"],
        ),
        text=bert.fields(text) | dict(pooling="first", pooler="idle"),
        contrast=dict(
            size=config.get("projection_dim", 640),
            scale=1 / config.get("temperature_init_value", 1.0),
            max_scale=float("inf"),
            project=["text"],
            project_bias=True,
            divide=True,
        ),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    _, vision = sections(config)
    table = [
        *convolution("vision/stem_conv", "vision_model.embeddings.convolution"),
        *batch_norm("vision/stem_norm", "vision_model.embeddings.batchnorm"),
    ]
    number = 0
    for stage, (_, _, expansion, _, count) in enumerate(rows(vision)):
        for block in range(count):
            ours = f"vision/stage{stage + 1}_block{block + 1}"
            table += block_rules(ours, f"vision_model.encoder.blocks.{number}", expansion != 1)
            number += 1
    return [
        *table,
        *bert.encoder_rules("text", "text_model."),
        *dense("contrast_head/text", "text_projection"),
        Rule("contrast_head/temperature", "temperature"),
    ]


def block_rules(ours: str, theirs: str, expands: bool) -> Rules:
    """One block."""
    names = {
        "depthwise": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
        "project": ("projection.project_conv", "projection.project_bn"),
    }
    if expands:
        names["expand"] = ("expansion.expand_conv", "expansion.expand_bn")
    table: Rules = []
    for name, (weights, normed) in names.items():
        table += convolution(f"{ours}/{name}_conv", f"{theirs}.{weights}")
        table += batch_norm(f"{ours}/{name}_norm", f"{theirs}.{normed}")
    for name, other in (("squeeze", "reduce"), ("excite", "expand")):
        table += convolution(f"{ours}/{name}", f"{theirs}.squeeze_excite.{other}", bias=True)
    return table


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One picture and one text."""
    height, width = sides(sections(config)[1], "image_size")
    return {"image": picture(height, width), "contrast": TWO_WORDS}, {"contrast": "contrast"}


def contrast(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """The towers' last states, embeddings and scaled products."""
    pixels, given = nhwc(inputs["pixel_values"]), typed_inputs(inputs)
    visual = apply(pixels, method="encode_image")
    size = apply(method=lambda model: model.vision.map_size(*pixels.shape[1:3]))
    image = visual.tokens.swapaxes(1, 2).reshape(len(pixels), -1, *size)
    tokens = {"image_tokens": image, "text_tokens": apply(given, method="encode_text").tokens}
    return contrasted(apply, visual, given) | tokens


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval with captions and the reproduction's loss."""
    length = min(LONGEST, sections(config)[0]["max_position_embeddings"])
    return {"retrieval": dict(length=length, label_smoothing=SMOOTHING)}


ALIGN = Family(
    model,
    rules,
    example,
    calls={"forward": contrast, "contrast": contrast},
    renames=bert.RENAMES,
    ignored=(r".*\.position_ids", r".*\.token_type_ids", r".*\.num_batches_tracked"),
    tasks=tasks,
)
