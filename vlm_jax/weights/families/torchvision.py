"""ResNet and VGG under torchvision's names, which timm's ResNets share.

config.json: model_type "torchvision" and arch, such as "resnet50" or "vgg16" (or, as timm writes
it, architecture); num_classes (1000 if absent, 0 for no classifier) and image_size (224). Smaller
networks of the same kind name what differs: width, stages, fc_width, grid (see `encoders.vgg`).
Shapes of tensors count more than any of these.
"""

import math
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_jax.encoders import resnet as resnets
from vlm_jax.encoders import vgg as vggs
from vlm_jax.weights.calls import Inputs, convolutional, nhwc, observed
from vlm_jax.weights.families.resnet import block_rules
from vlm_jax.weights.family import (
    UNNAMED,
    Config,
    Family,
    Shapes,
    one_of,
    picture,
    require,
    square,
)
from vlm_jax.weights.rules import Form, Rules, batch_norm, convolution, dense

ARCHITECTURES: dict[str, tuple[str, int]] = {
    **{f"resnet{depth}": ("resnet", depth) for depth in resnets.BLOCKS},
    **{f"vgg{depth}": ("vgg", depth) for depth in vggs.CONVOLUTIONS},
}
DEFAULTS: dict[str, Any] = dict(
    num_classes=1000, image_size=224, width=64, fc_width=4096, grid=7, stages=None
)
PICTURES: dict[str, Any] = dict(
    crop_pct=224 / 256,
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
METHODS = {"bilinear": "bilinear", "bicubic": "bicubic"}


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there, and the kind and depth of the network."""
    config = DEFAULTS | {"arch": config.get("architecture")} | dict(config)
    kind, depth = one_of(config, "arch", ARCHITECTURES)
    config |= dict(kind=kind, depth=depth)
    if kind == "resnet":
        config["stages"] = tuple(config["stages"] or resnets.BLOCKS[depth])
    return config


def settled(config: Config, shapes: Shapes) -> Config:
    """What the shapes tell about the size of the network."""
    known = filled(config)
    if known["kind"] == "vgg":
        return dict(config) | _settled_vgg(shapes)
    stages = [
        [int(block) for block in _numbers(rf"layer{n}\.(\d+)\..*", shapes)] for n in range(1, 9)
    ]
    found: dict[str, Any] = dict(stages=[max(blocks) + 1 for blocks in stages if blocks])
    if "conv1.weight" in shapes:
        found["width"] = shapes["conv1.weight"][0]
    found["num_classes"] = shapes["fc.weight"][0] if "fc.weight" in shapes else 0
    return dict(config) | found


def _settled_vgg(shapes: Shapes) -> dict[str, Any]:
    found: dict[str, Any] = dict(num_classes=0)
    if "features.0.weight" in shapes:
        found["width"] = shapes["features.0.weight"][0]
    if {"classifier.0.weight", "classifier.6.weight"} <= shapes.keys():
        found["num_classes"] = shapes["classifier.6.weight"][0]
        found["fc_width"], inputs = shapes["classifier.0.weight"]
        found["grid"] = math.isqrt(inputs // (8 * found["width"]))
    return found


def _numbers(pattern: str, shapes: Shapes) -> list[str]:
    return [match[1] for name in shapes if (match := re.fullmatch(pattern, name))]


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config = filled(config)
    kind, classes = config["kind"], config["num_classes"] or None
    fields = dict(name=kind, depth=config["depth"], width=config["width"], classes=classes)
    if kind == "resnet":
        return dict(vision=fields | dict(stages=config["stages"]))
    fields["features"] = "fc2" if classes else "map"
    return dict(vision=fields | dict(fc_width=config["fc_width"], grid=config["grid"]))


def rules(config: Config) -> Rules:
    """The mapping table."""
    config = filled(config)
    return _resnet_rules(config) if config["kind"] == "resnet" else _vgg_rules(config)


def _resnet_rules(config: Config) -> Rules:
    count = 3 if config["depth"] >= 50 else 2
    found = [*convolution("vision/stem_conv", "conv1"), *batch_norm("vision/stem_norm", "bn1")]
    for stage, blocks in enumerate(config["stages"], 1):
        for block in range(blocks):
            theirs = f"layer{stage}.{block}"
            own = [(f"{theirs}.conv{i}", f"{theirs}.bn{i}") for i in range(1, count + 1)]
            shortcut = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
            found += block_rules(f"vision/stage{stage}_block{block + 1}", count, own, shortcut)
    return found + (dense("vision/head", "fc") if config["num_classes"] else [])


def _vgg_rules(config: Config) -> Rules:
    found, index = [], 0
    for block, convolutions in enumerate(vggs.CONVOLUTIONS[config["depth"]], 1):
        for number in range(1, convolutions + 1):
            ours = f"vision/block{block}_conv{number}"
            found += convolution(ours, f"features.{index}", bias=True)
            index += 2  # a ReLU follows
        index += 1  # pooling
    if not config["num_classes"]:
        return found
    return [
        *found,
        *dense("vision/fc1", "classifier.0", form=flattened(config["grid"])),
        *dense("vision/fc2", "classifier.3"),
        *dense("vision/head", "classifier.6"),
    ]


def flattened(grid: int) -> Form:
    """A layer on a map that they flatten as channel, row, column and we as row, column, channel."""

    def read(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, grid, grid).transpose(2, 3, 1, 0).reshape(-1, len(x))

    def write(x: np.ndarray) -> np.ndarray:
        whole = x.reshape(grid, grid, -1, x.shape[-1]).transpose(3, 2, 0, 1)
        return whole.reshape(x.shape[-1], -1)

    return Form(read, write)


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture."""
    return {"image": picture(filled(config)["image_size"]), "look": {}}, {"look": "encode"}


def forward(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """What the network returns, logits; features and pooled before them, and image_tokens, the last
    map [B, C, H, W], of a VGG after its pooling.
    """
    pixels = inputs["pixel_values"] if "pixel_values" in inputs else inputs["x"]
    last = apply(method=_last_convolution)
    if last is None:
        visual = apply(nhwc(pixels), method="encode_image")
        return convolutional(visual, pixels) | {"logits": visual.pooled}
    visual, x = observed(apply, ("vision", last), nhwc(pixels), method="encode_image")
    batch, rows, columns, width = x.shape
    whole = jnp.maximum(x, 0)[:, : rows // 2 * 2, : columns // 2 * 2]
    blocks = whole.reshape(batch, rows // 2, 2, columns // 2, 2, width)
    image = blocks.max((2, 4)).transpose(0, 3, 1, 2)
    vector = visual.tokens[:, 0] if visual.tokens.shape[1] == 1 else visual.pooled
    found = {"features": vector, "features:map": image, "image_tokens": image}
    return found | {"pooled": vector, "logits": visual.pooled}


def _last_convolution(model: Any) -> str | None:
    """The name of a VGG's last layer before its last pooling, None for a ResNet."""
    if not isinstance(model.vision, vggs.VGG):
        return None
    return f"block5_conv{vggs.CONVOLUTIONS[model.vision.depth][-1]}"


def pictures(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """How pictures are read where no preprocessor's file says: by timm's pretrained_cfg, or else as
    torchvision's classifiers are evaluated, the middle of a picture 8/7 as large.
    """
    side = filled(config)["image_size"]
    return timm_pictures(PICTURES | dict(input_size=(3, side, side)), config)


def timm_pictures(usual: Config, config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same by timm's pretrained_cfg in config.json, over what is usual."""
    given = dict(usual) | dict(config.get("pretrained_cfg") or {})
    require(given, crop_mode="center")
    size = given["input_size"]
    method = one_of(given, "interpolation", METHODS)
    side = square(dict(input_size=size[1:]), "input_size")
    shortest = math.floor(side / given["crop_pct"])
    reader = dict(size=side, fit="round_crop", shortest=shortest, method=method)
    return reader, dict(image_mean=tuple(given["mean"]), image_std=tuple(given["std"]))


TORCHVISION = Family(
    model,
    rules,
    example,
    calls={"forward": forward},
    ignored=(r".*\.num_batches_tracked",),
    settle=settled,
    pictures=pictures,
    classes=UNNAMED,
)
