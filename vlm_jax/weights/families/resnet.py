"""ResNet (arXiv:1512.03385): `ResNetModel` and `ResNetForImageClassification` folders."""

from collections.abc import Sequence
from typing import Any

from vlm_jax.weights.calls import Inputs, convolutional, nhwc
from vlm_jax.weights.family import (
    Config,
    Family,
    Shapes,
    activation,
    labels,
    one_of,
    picture,
    require,
)
from vlm_jax.weights.rules import Rules, batch_norm, convolution, dense

DEFAULTS: dict[str, Any] = dict(
    num_channels=3,
    embedding_size=64,
    hidden_sizes=(256, 512, 1024, 2048),
    depths=(3, 4, 6, 3),
    layer_type="bottleneck",
    hidden_act="relu",
    downsample_in_first_stage=False,
    downsample_in_bottleneck=False,
)
"""What a config.json that leaves a key out means by it."""

CLASSIFIER = {"ResNetModel": False, "ResNetForImageClassification": True}
BOTTLENECK = {"bottleneck": True, "basic": False}


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    config = DEFAULTS | dict(config)
    require(config, num_channels=3)
    return config


def classifies(config: Config) -> bool:
    """Whether the folder is a classifier's."""
    name = (config.get("architectures") or ["ResNetModel"])[0]
    return one_of(dict(architectures=name), "architectures", CLASSIFIER)


def settled(config: Config, shapes: Shapes) -> Config:
    """Whether there is a classifier, where config.json does not say."""
    if config.get("architectures"):
        return config
    heads = any(name.startswith(("classifier.", "resnet.")) for name in shapes)
    name = "ResNetForImageClassification" if heads else "ResNetModel"
    return dict(config) | dict(architectures=[name])


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config = filled(config)
    bottleneck = one_of(config, "layer_type", BOTTLENECK)
    return dict(
        vision=dict(
            name="resnet",
            bottleneck=bottleneck,
            stages=tuple(config["depths"]),
            widths=tuple(config["hidden_sizes"]),
            stem_width=config["embedding_size"],
            first_stride=2 if config["downsample_in_first_stage"] else 1,
            stride_first=bottleneck and config["downsample_in_bottleneck"],
            activation=activation(config),
            classes=(labels(config) or None) if classifies(config) else None,
        )
    )


def block_rules(
    ours: str, layers: int, convolutions: Sequence[tuple[str, str]], shortcut: tuple[str, str]
) -> Rules:
    """A block. convolutions, shortcut: their (convolution, norm); the shortcut is not in every
    block.
    """
    each = [(f"conv{i + 1}", f"norm{i + 1}", *convolutions[i]) for i in range(layers)]
    each.append(("shortcut_conv", "shortcut_norm", *shortcut))
    rules: Rules = []
    for mine, my_norm, theirs, their_norm in each:
        rules += convolution(f"{ours}/{mine}", theirs) + batch_norm(f"{ours}/{my_norm}", their_norm)
    return rules


def layer(prefix: str) -> tuple[str, str]:
    """The two tensors' names of a convolution with its norm."""
    return f"{prefix}.convolution", f"{prefix}.normalization"


def rules(config: Config) -> Rules:
    """The mapping table."""
    config = filled(config)
    prefix = "resnet." if classifies(config) else ""
    count = 3 if one_of(config, "layer_type", BOTTLENECK) else 2
    stem, stem_norm = layer(f"{prefix}embedder.embedder")
    found = [*convolution("vision/stem_conv", stem), *batch_norm("vision/stem_norm", stem_norm)]
    for stage, depth in enumerate(config["depths"]):
        for block in range(depth):
            theirs = f"{prefix}encoder.stages.{stage}.layers.{block}"
            own = [layer(f"{theirs}.layer.{number}") for number in range(count)]
            ours = f"vision/stage{stage + 1}_block{block + 1}"
            found += block_rules(ours, count, own, layer(f"{theirs}.shortcut"))
    if classifies(config) and labels(config):
        found += dense("vision/head", "classifier.1")
    return found


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture; any size will do."""
    return {"image": picture(64), "look": {}}, {"look": "encode"}


def forward(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """tokens: the last map [B, C, H, W]; pooled: its mean [B, C, 1, 1]; logits of a classifier, or
    the mean [B, C] where none follows (num_labels=0); and the outputs of `convolutional`.
    """
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    found = convolutional(visual, inputs["pixel_values"])
    found |= {"tokens": found["image_tokens"], "pooled": found["pooled"][:, :, None, None]}
    return found | {"logits": visual.pooled}


RESNET = Family(
    model,
    rules,
    example,
    calls={"forward": forward},
    ignored=(r".*\.num_batches_tracked",),
    settle=settled,
    classes=dict.fromkeys(CLASSIFIER, "num_labels"),
)
