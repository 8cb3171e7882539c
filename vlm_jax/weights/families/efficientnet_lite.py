"""EfficientNet-Lite under timm's names (tf_efficientnet_lite0 to 4) and those of the first PyTorch
port, whose blocks are numbered through ("_blocks.7._depthwise_conv.weight").

config.json: architecture and num_classes (1000 if absent, 0 for no classifier), as timm writes it,
beside model_type "efficientnet_lite". Smaller networks of the same kind name what differs: stages,
stem, head, image_size.
"""

from collections.abc import Sequence
from typing import Any

from vlm_jax.encoders import efficientnet
from vlm_jax.weights.calls import Inputs, convolutional, nhwc
from vlm_jax.weights.families.torchvision import timm_pictures
from vlm_jax.weights.family import UNNAMED, Config, Family, Shapes, one_of, picture
from vlm_jax.weights.rules import Rules, batch_norm, convolution, dense

ARCHITECTURES = {
    f"tf_efficientnet_lite{n}": pair for n, pair in enumerate(efficientnet.MULTIPLIERS)
}
DEFAULTS: dict[str, Any] = dict(
    architecture="tf_efficientnet_lite0",
    num_classes=1000,
    stages=None,
    stem=32,
    head=1280,
    image_size=32,
)


HALVES = (0.5, 0.5, 0.5)
TRAINED = dict(
    zip(
        ARCHITECTURES,
        (
            (224, 0.875, "bicubic"),
            (240, 0.882, "bicubic"),
            (260, 0.89, "bicubic"),
            (300, 0.904, "bilinear"),
            (380, 0.92, "bilinear"),
        ),
        strict=True,
    )
)
"""Pixels of a side, their share of the shortest side, and how a picture is resized, as in timm."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there, and the multipliers of channels and blocks."""
    config = DEFAULTS | dict(config)
    width, depth = one_of(config, "architecture", ARCHITECTURES)
    stages = tuple(config["stages"] or efficientnet.blocks_of(depth))
    return config | dict(width=width, depth=depth, stages=stages)


def settled(config: Config, shapes: Shapes) -> Config:
    """What the tensors tell: whether there is a classifier, and for how many classes."""
    names = [name for name in ("classifier.weight", "_fc.weight") if name in shapes]
    return dict(config) | dict(num_classes=shapes[names[0]][0] if names else 0)


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config = filled(config)
    fields = {key: config[key] for key in ("width", "depth", "stages", "stem", "head")}
    classes = config["num_classes"] or None
    return dict(vision=dict(name="efficientnet", classes=classes) | fields)


def rules(config: Config) -> Rules:
    """The mapping table."""
    config = filled(config)
    table = [*convolution("vision/stem_conv", "conv_stem"), *batch_norm("vision/stem_norm", "bn1")]
    for stage, count in enumerate(config["stages"]):
        for block in range(count):
            ours = f"vision/stage{stage + 1}_block{block + 1}"
            table += block_rules(ours, f"blocks.{stage}.{block}", efficientnet.STAGES[stage][2])
    table += [*convolution("vision/last_conv", "conv_head"), *batch_norm("vision/last_norm", "bn2")]
    return table + (dense("vision/head", "classifier") if config["num_classes"] else [])


def block_rules(ours: str, theirs: str, expansion: int) -> Rules:
    """One block; without expansion, theirs number what is left from the start."""
    names = [("depthwise", "conv_dw"), ("project", "conv_pwl")]
    if expansion > 1:
        names = [("expand", "conv_pw"), *names]
    else:
        names[1] = ("project", "conv_pw")
    table: Rules = []
    for number, (mine, name) in enumerate(names, 1):
        table += convolution(f"{ours}/{mine}_conv", f"{theirs}.{name}")
        table += batch_norm(f"{ours}/{mine}_norm", f"{theirs}.bn{number}")
    return table


def numbered(stages: Sequence[int]) -> dict[str, str]:
    """Prefix in the first port to timm's, for a network with these blocks."""
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    names["_fc"] = "classifier"
    places = [(stage, block) for stage, count in enumerate(stages) for block in range(count)]
    for number, (stage, block) in enumerate(places):
        ours, theirs = f"_blocks.{number}", f"blocks.{stage}.{block}"
        parts = [("_depthwise_conv", "conv_dw"), ("_project_conv", "conv_pwl")]
        norms = [("_bn0", "bn1"), ("_bn1", "bn2"), ("_bn2", "bn3")]
        if efficientnet.STAGES[stage][2] > 1:
            parts.append(("_expand_conv", "conv_pw"))
        else:
            parts[1], norms = ("_project_conv", "conv_pw"), [("_bn1", "bn1"), ("_bn2", "bn2")]
        names |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in (*parts, *norms)}
    return names


def as_timm(name: str, names: dict[str, str]) -> str:
    """A tensor's name in the first port as timm's. names: from `numbered`. KeyError if unknown."""
    prefix, _, last = name.rpartition(".")
    return f"{names[prefix]}.{last}"


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture; any size will do."""
    return {"image": picture(filled(config)["image_size"]), "look": {}}, {"look": "encode"}


def forward(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """What the network returns: logits, or the mean of its map where it has no classifier; tokens,
    and the outputs of `convolutional`.
    """
    visual = apply(nhwc(inputs["pixel_values"]), method="encode_image")
    return convolutional(visual, inputs["pixel_values"]) | {
        "logits": visual.pooled,
        "tokens": visual.tokens,
    }


def pictures(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """How pictures are read where no preprocessor's file says: by timm's pretrained_cfg, or else
    the middle of a picture at the size that the network was trained for.
    """
    side, share, method = one_of(DEFAULTS | dict(config), "architecture", TRAINED)
    usual = dict(input_size=(3, side, side), crop_pct=share, interpolation=method)
    return timm_pictures(usual | dict(mean=HALVES, std=HALVES), config)


EFFICIENTNET_LITE = Family(
    model,
    rules,
    example,
    calls={"forward": forward},
    ignored=(r".*\.num_batches_tracked",),
    settle=settled,
    pictures=pictures,
    classes=UNNAMED,
)
