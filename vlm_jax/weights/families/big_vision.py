""".npz files of big_vision: ViT (arXiv:2010.11929, arXiv:2205.01580) and SigLIP's two towers.

Such a file has no config.json: shapes tell nearly all, and a config.json beside it may say the
rest: img and txt, with the keys of IMAGE and TEXT; of these `pool` cannot be read off, and defaults
to the class token or MAP head that is there, else to the mean, or "last" for a text; nor can `res`.
Beside two towers lies their SentencePiece model as spiece.model or tokenizer.model. Pictures are
stretched to the trained size without antialiasing, as by its own default.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_jax.data.images import ALIASED
from vlm_jax.weights import convert
from vlm_jax.weights.calls import Inputs, classifies, nhwc, text_inputs, with_tokens
from vlm_jax.weights.family import Config, Family, Shapes, one_of, pair_example, picture
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import AS_IT_IS, Form, Rule, Rules, reshaped

STACK: dict[str, Any] = dict(width=768, layers=12, heads=12, mlp_width=3072, scan=False)
IMAGE = STACK | dict(patch=16, side=14, pool="map", positions=196, rep_size=None, classes=None)
IMAGE |= dict(res=None)
TEXT = STACK | dict(vocab=32000, length=64, pool="last", classes=None)
"""A tower's sizes. side: rows and columns of positions; positions: side^2, or one more where the
class token has its own. classes: width of the last layer, None for no such layer. scan: all layers
are in one tensor. res: height and width of a picture, of which less than a patch is not read; None
for whole patches, or 384 for the 27 x 27 patches of 14 that SigLIP has of it.
"""
POOLINGS = {"map": "attention", "tok": "cls", "gap": "mean"}
TEXT_POOLINGS = {"last": "end", "first": "first", "gap": "mean"}
ATTENTION = "MultiHeadDotProductAttention_0"
RENAMES = (
    (r"^(?!params/)", "params/"),
    (r"/Transformer/posembed_input/pos_embedding$", "/pos_embedding"),
    (r"/(encoderblock_\d+)/LayerNorm_2/", r"/\1/LayerNorm_1/"),
    (r"/MultiHeadDotProductAttention_1/", f"/{ATTENTION}/"),
    (r"/MlpBlock_3/", "/MlpBlock_0/"),
)
"""The names of older files."""

SCALARS = {"logit_scale": "t", "logit_bias": "b"}


def heads_joined(heads: int) -> Form:
    """The last two axes, heads and their channels, as one."""
    return Form(
        lambda x: x.reshape(*x.shape[:-2], -1), lambda x: x.reshape(*x.shape[:-1], heads, -1)
    )


def heads_first(heads: int) -> Form:
    """The same where a third axis, the output's, follows."""

    def read(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-3], -1, x.shape[-1])

    def write(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-2], heads, -1, x.shape[-1])

    return Form(read, write)


def dense(ours: str, theirs: str, kernel: Form = AS_IT_IS, bias: Form = AS_IT_IS) -> Rules:
    """A layer; matrices are (in, out) here as there."""
    return [
        Rule(f"{ours}/kernel", f"{theirs}/kernel", kernel),
        Rule(f"{ours}/bias", f"{theirs}/bias", bias),
    ]


def norm(ours: str, theirs: str) -> Rules:
    """A normalisation."""
    return [Rule(f"{ours}/{name}", f"{theirs}/{name}") for name in ("scale", "bias")]


def attention_rules(ours: str, theirs: str, heads: int, bias: bool = True) -> Rules:
    """An attention, whose matrices keep heads apart there."""
    joined, found = heads_joined(heads), []
    for name in ("query", "key", "value"):
        found += dense(f"{ours}/{name}", f"{theirs}/{name}", joined, joined)
    found += dense(f"{ours}/out", f"{theirs}/out", heads_first(heads))
    return [rule for rule in found if bias or not rule.theirs.endswith("/bias")]


def mlp_rules(ours: str, theirs: str) -> Rules:
    """An MLP."""
    block = f"{theirs}/MlpBlock_0"
    return dense(f"{ours}/up", f"{block}/Dense_0") + dense(f"{ours}/down", f"{block}/Dense_1")


def stack_rules(ours: str, theirs: str, section: Config) -> Rules:
    """The layers and the last norm."""
    block = f"{theirs}/encoderblock" + ("" if section["scan"] else "_{}")
    layers = f"{ours}/layers"
    return [
        *norm(f"{layers}/self_norm", f"{block}/LayerNorm_0"),
        *attention_rules(f"{layers}/self_attention", f"{block}/{ATTENTION}", section["heads"]),
        *norm(f"{layers}/mlp_norm", f"{block}/LayerNorm_1"),
        *mlp_rules(f"{layers}/mlp", block),
        *norm(f"{ours}/final_norm", f"{theirs}/encoder_norm"),
    ]


def image_rules(theirs: str, section: Config) -> Rules:
    """The image tower."""
    patch, width = section["patch"], section["width"]
    flat = reshaped((-1, width), (patch, patch, 3, width))
    table = reshaped((-1, width), (1, -1, width))
    found = [
        *dense("vision/patch_embedding", f"{theirs}/embedding", flat),
        Rule("vision/position", f"{theirs}/pos_embedding", table),
        *stack_rules("vision/transformer", f"{theirs}/Transformer", section),
    ]
    if section["pool"] == "tok":
        found.append(Rule("vision/class_token", f"{theirs}/cls"))
    if section["pool"] == "map":
        ours, head = "vision/attention_pooling", f"{theirs}/MAPHead_0"
        found.append(Rule(f"{ours}/probe", f"{head}/probe"))
        found += attention_rules(f"{ours}/attention", f"{head}/{ATTENTION}", section["heads"])
        found += norm(f"{ours}/norm", f"{head}/LayerNorm_0") + mlp_rules(f"{ours}/mlp", head)
    if section["rep_size"]:
        found += dense("vision/pooler", f"{theirs}/pre_logits")
    return found + (dense("vision/head", f"{theirs}/head") if section["classes"] else [])


def text_rules(theirs: str, section: Config) -> Rules:
    """The text tower."""
    table = reshaped((-1, section["width"]), (1, -1, section["width"]))
    found = [
        Rule("text/embedding/token/embedding", f"{theirs}/Embed_0/embedding"),
        Rule("text/embedding/position", f"{theirs}/pos_embedding", table),
        *stack_rules("text/transformer", f"{theirs}/Encoder_0", section),
    ]
    return found + (dense("text/pooler_dense", f"{theirs}/head") if section["classes"] else [])


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The image tower, and the text tower if there is one, with everything filled in."""
    text = config.get("txt")
    return IMAGE | dict(config.get("img") or {}), None if text is None else TEXT | dict(text)


def stack_fields(section: Config) -> dict[str, Any]:
    """Fields of a Transformer."""
    same = {name: section[name] for name in ("width", "layers", "heads", "mlp_width")}
    return same | dict(activation="gelu_tanh", epsilon=1e-6)


def resolution(image: Config) -> int:
    """Height and width of a picture."""
    read = image["patch"] * image["side"]
    return image["res"] or (384 if (image["patch"], image["side"]) == (14, 27) else read)


def vision_fields(image: Config) -> dict[str, Any]:
    """The image tower."""
    return dict(
        name="vit",
        patch=image["patch"],
        image_size=resolution(image),
        class_token=image["pool"] == "tok",
        class_position=image["positions"] > image["side"] ** 2,
        pooling=one_of(image, "pool", POOLINGS),
        pooler="tanh" if image["rep_size"] else None,
        pooler_width=image["rep_size"],
        classes=image["classes"],
        **stack_fields(image),
    )


def model(config: Config) -> dict[str, Any]:
    """The config as config.model."""
    image, text = sections(config)
    vision = vision_fields(image)
    if text is None:
        return dict(vision=vision)
    size = image["classes"] or image["rep_size"] or image["width"]
    bias = 0.0 if config.get("bias", True) else None
    return dict(
        vision=vision,
        text=dict(
            name="transformer",
            vocab=text["vocab"],
            max_length=text["length"],
            attend_padding=True,
            pooling=one_of(text, "pool", TEXT_POOLINGS),
            pooler="linear" if text["classes"] else "none",
            pooler_width=text["classes"],
            **stack_fields(text),
        ),
        contrast=dict(size=size, project=(), bias=bias, max_scale=float("inf")),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    image, text = sections(config)
    if text is None:
        return image_rules("params", image)
    scalar = reshaped((), (1,))
    names = ("logit_scale", "logit_bias") if config.get("bias", True) else ("logit_scale",)
    return [
        *image_rules("params/img", image),
        *text_rules("params/txt", text),
        *[Rule(f"contrast_head/{name}", f"params/{SCALARS[name]}", scalar) for name in names],
    ]


def renamed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes by the newer names."""
    names = convert.canonical(list(shapes), RENAMES)
    return {name: shapes[stored] for name, stored in names.items()}


def settled(config: Config, shapes: Shapes) -> Config:
    """What the shapes tell, over what config.json says."""
    known = renamed(shapes)
    if any("/BertEncoder_0/" in name for name in known):
        raise WeightsError("text towers of the type BERT are not read from .npz files")
    two = any(name.startswith("params/img/") for name in known)
    image = below(known, "params/img/" if two else "params/")
    found = dict(config) | dict(img=image_sizes(image) | dict(config.get("img") or {}))
    if two:
        sizes = _text_sizes(below(known, "params/txt/"))
        found |= dict(txt=sizes | dict(config.get("txt") or {}), bias="params/b" in known)
    return found


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a part, by what follows its name."""
    return {n.removeprefix(prefix): shape for n, shape in shapes.items() if n.startswith(prefix)}


def _stack_sizes(shapes: Shapes, name: str) -> dict[str, Any]:
    """A stack's sizes. WeightsError if its first layer is not there."""
    scan = f"{name}/encoderblock/LayerNorm_0/scale" in shapes
    block = f"{name}/encoderblock" + ("" if scan else "_0")
    try:
        heads = shapes[f"{block}/{ATTENTION}/query/kernel"][-2]
        width, mlp_width = shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][-2:]
    except KeyError as error:
        raise WeightsError(f"no tensor {error.args[0]}: this is no .npz of big_vision") from None
    numbers = [re.match(rf"{name}/encoderblock_(\d+)/", stored) for stored in shapes]
    layers = len({match[1] for match in numbers if match})
    layers = shapes[f"{block}/LayerNorm_0/scale"][0] if scan else layers
    return dict(width=width, layers=layers, heads=heads, mlp_width=mlp_width, scan=scan)


def image_sizes(shapes: Shapes) -> dict[str, Any]:
    """The image tower's sizes."""
    found = _stack_sizes(shapes, "Transformer")
    positions = shapes["pos_embedding"][-2]
    pools = {"MAPHead_0/probe": "map", "cls": "tok"}
    return found | dict(
        patch=shapes["embedding/kernel"][0],
        side=math.isqrt(positions),
        positions=positions,
        pool=next((pool for name, pool in pools.items() if name in shapes), "gap"),
        rep_size=_last(shapes, "pre_logits/bias"),
        classes=_last(shapes, "head/bias"),
    )


def _text_sizes(shapes: Shapes) -> dict[str, Any]:
    return _stack_sizes(shapes, "Encoder_0") | dict(
        vocab=shapes["Embed_0/embedding"][0],
        length=shapes["pos_embedding"][-2],
        pool="last",
        classes=_last(shapes, "head/bias"),
    )


def _last(shapes: Mapping[str, tuple[int, ...]], name: str) -> int | None:
    return shapes[name][-1] if name in shapes else None


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and, for two towers, a text."""
    image, text = sections(config)
    size = resolution(image)
    if text is None:
        return {"image": picture(size), "look": {}}, {"look": "encode"}
    return pair_example(size), {"contrast": "contrast"}


def forward(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """What one tower gives, or both: pixel_values [B, 3, H, W] or image [B, H, W, 3] in [-1, 1];
    input_ids or text [B, T].
    """
    pixels = nhwc(inputs["pixel_values"]) if "pixel_values" in inputs else inputs["image"]
    visual = apply(pixels, method="encode_image")
    ids = inputs.get("input_ids", inputs.get("text"))
    if ids is not None:
        return with_tokens(apply, visual, text_inputs({"input_ids": ids}))
    tokens = {"tokens": visual.tokens, "image_tokens": visual.tokens}
    return tokens | {"logits" if classifies(apply) else "pooled": visual.pooled}


def pictures(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """How pictures are read where no preprocessor's file says: as big_vision's "resize" and
    "value_range(-1, 1)" do, stretched without antialiasing.
    """
    halves = (0.5,) * 3
    size = resolution(sections(config)[0])
    return dict(size=size, method=ALIASED), dict(image_mean=halves, image_std=halves)


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval with texts of the trained length, for two towers."""
    text = sections(config)[1]
    return {} if text is None else {"retrieval": dict(length=text["length"])}


BIG_VISION = Family(
    model,
    rules,
    example,
    calls={"forward": forward, "contrast": forward},
    renames=RENAMES,
    tasks=tasks,
    settle=settled,
    files=("config.json", "model.npz"),
    pictures=pictures,
)
