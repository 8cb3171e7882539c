"""ViLT (arXiv:2102.03334): `ViltModel`, `ViltForMaskedLM`, `ViltForQuestionAnswering`,
`ViltForImageAndTextRetrieval` and `ViltForImagesAndTextClassification` (NLVR2) folders.

The reference shuffles the patches of an image, which changes nothing but the order of its image
tokens, and fills smaller images up with some of their padding, which nothing looks at; here
patches keep their places, and padding is masked.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_jax.weights.calls import UNNORMED, Inputs, nhwc, observed
from vlm_jax.weights.families import bert
from vlm_jax.weights.family import (
    TWO_WORDS,
    Config,
    Family,
    activation,
    answer_task,
    class_names,
    labels,
    picture,
    require,
    square,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.fused_calls import match as match_of
from vlm_jax.weights.fused_calls import named, typed_inputs
from vlm_jax.weights.rules import Form, Rule, Rules, attention, dense, norm, patches, reshaped

DEFAULTS: dict[str, Any] = bert.DEFAULTS | dict(
    max_position_embeddings=40,
    modality_type_vocab_size=2,
    image_size=384,
    patch_size=32,
    qkv_bias=True,
)
"""What a config.json that leaves a key out means by it."""

PREFIXES = {
    "ViltModel": "",
    "ViltForMaskedLM": "vilt.",
    "ViltForQuestionAnswering": "vilt.",
    "ViltForImageAndTextRetrieval": "vilt.",
    "ViltForImagesAndTextClassification": "vilt.",
}
SEVERAL = "ViltForImagesAndTextClassification"
"""The class that reads a text with several images, each by itself."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    require(config, max_image_length=-1, num_channels=3)
    return DEFAULTS | dict(config)


def kind(config: Config) -> str:
    """The class that a folder was saved from."""
    return bert.architecture(config, {name: name for name in PREFIXES}, "ViltModel")


def images(config: Config) -> int:
    """How many images a text is about. WeightsError if there are not as many modalities."""
    if kind(config) != SEVERAL:
        return 1
    count, modalities = config.get("num_images", -1), filled(config)["modality_type_vocab_size"]
    if not 1 <= count < modalities:
        raise WeightsError(
            f"config.json: num_images={count!r} is not supported with "
            f"modality_type_vocab_size={modalities}: a text and each image have one"
        )
    return int(count)


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, wanted = filled(config), kind(config)
    layers = bert.stack_fields(config) | dict(
        norm_first=True, attention=dict(bias=config["qkv_bias"])
    )
    parts: dict[str, Any] = dict(
        vision=dict(
            name="vit",
            patch=square(config, "patch_size"),
            width=config["hidden_size"],
            layers=0,
            image_size=square(config, "image_size"),
            resize="corners",
            keep_class_token=True,
            pooling="none",
        ),
        text=bert.fields(config, pooler=False) | dict(layers=0),
        fusion=layers
        | dict(
            name="cross_modal",
            pooling="start",
            visual_projection=False,
            segments=config["modality_type_vocab_size"],
            images=images(config),
        ),
    )
    if wanted == "ViltForMaskedLM":
        head = dict(activation=activation(config), epsilon=config["layer_norm_eps"])
        parts["reconstruct"] = head | dict(vocab=config["vocab_size"], tied=True, match=False)
    if wanted in ("ViltForQuestionAnswering", SEVERAL):
        times = images(config) if wanted == SEVERAL else 2
        hidden = dict(hidden=times * config["hidden_size"], norm="before", epsilon=1e-5)
        parts["classify"] = dict(classes=labels(config)) | hidden
    if wanted == "ViltForImageAndTextRetrieval":
        parts["classify"] = dict(classes=1)
    return parts


def segments(count: int, width: int) -> Form:
    """Their table of modalities, text before image, as ours, image before text."""
    order = [1, 0, *range(2, count)]
    return Form(
        lambda x: x[order].reshape(count, 1, 1, width),
        lambda x: x.reshape(count, width)[order],
    )


def layer_rules(ours: str, theirs: str, config: Config) -> Rules:
    """The layers, which have the names of the first ViT's."""
    layer = f"{theirs}.{{}}"
    names = [f"attention.{name}" for name in ("query", "key", "value")] + ["output.dense"]
    biases = dict(bias=config["qkv_bias"], out_bias=True)
    return [
        *attention(f"{ours}/self_attention", f"{layer}.attention", names, **biases),
        *norm(f"{ours}/self_norm", f"{layer}.layernorm_before"),
        *norm(f"{ours}/mlp_norm", f"{layer}.layernorm_after"),
        *dense(f"{ours}/mlp/up", f"{layer}.intermediate.dense"),
        *dense(f"{ours}/mlp/down", f"{layer}.output.dense"),
    ]


def rules(config: Config) -> Rules:
    """The mapping table."""
    config, wanted = filled(config), kind(config)
    prefix, width = PREFIXES[wanted], config["hidden_size"]
    embeddings = f"{prefix}embeddings"
    table = segments(config["modality_type_vocab_size"], width)
    form = patches(square(config, "patch_size"))
    flat = reshaped((-1, width), (1, -1, width))
    return [
        *dense("vision/patch_embedding", f"{embeddings}.patch_embeddings.projection", form=form),
        Rule("vision/class_token", f"{embeddings}.cls_token"),
        Rule("vision/position", f"{embeddings}.position_embeddings", flat),
        *bert.embedding_rules("text", f"{embeddings}.text_embeddings"),
        Rule("fusion/segment", f"{embeddings}.token_type_embeddings.weight", table),
        *layer_rules("fusion/transformer/layers", f"{prefix}encoder.layer", config),
        *norm("fusion/transformer/final_norm", f"{prefix}layernorm"),
        *dense("fusion/pooled", f"{prefix}pooler.dense"),
        *head_rules(wanted),
    ]


def head_rules(wanted: str) -> Rules:
    """What a class has on top."""
    if wanted == "ViltForMaskedLM":
        return [
            *dense("reconstruct_head/transform", "mlm_score.transform.dense"),
            *norm("reconstruct_head/norm", "mlm_score.transform.LayerNorm"),
            Rule("reconstruct_head/words_bias", "mlm_score.decoder.bias"),
        ]
    if wanted in ("ViltForQuestionAnswering", SEVERAL):
        return [
            *dense("classify_head/hidden", "classifier.0"),
            *norm("classify_head/norm", "classifier.1"),
            *dense("classify_head/out", "classifier.3"),
        ]
    return [] if wanted == "ViltModel" else dense("classify_head/out", "rank_output")


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture, or several, and two words."""
    image: Any = picture(square(filled(config), "image_size"))
    if kind(config) == SEVERAL:
        count = images(config)
        image = dict(pixels=np.stack([image] * count, axis=1), tiles=np.ones((1, count), bool))
    return {"image": image, "words": TWO_WORDS}, {"words": "understand"}


def several(apply: Any, inputs: Inputs, wanted: int) -> dict[str, Any]:
    """Logits of a text and the `wanted` images it is about, pixel_values [B, N, 3, H, W], or
    [B, 3, H, W] of one. ValueError for another number of images.
    """
    pixels = nhwc(inputs["pixel_values"])
    pixels = pixels[:, None] if pixels.ndim == 4 else pixels
    if pixels.shape[1] != wanted:
        raise ValueError(f"{pixels.shape[1]} images for each text: this model reads {wanted}")
    given: dict[str, Any] = dict(pixels=pixels, tiles=jnp.ones(pixels.shape[:2], bool))
    if (mask := inputs.get("pixel_mask")) is not None:
        flat = jnp.asarray(mask).reshape(-1, *mask.shape[-2:])
        given["mask"] = patch_mask(apply, flat, pixels).reshape(*pixels.shape[:2], -1)
    visual = apply(given, method="encode_image")
    return {"logits": apply(visual, typed_inputs(inputs), method="understand")["logits"]}


def patch_mask(apply: Any, mask: Any, pixels: Any) -> Any:
    """Which patches of pixels [..., H, W, 3] count, by the pixel of pixel_mask [B, h, w] that the
    reference asks for each; bool[B, rows * columns].
    """
    patch = apply(method=lambda model: model.vision.patch)
    rows, columns = (side // patch for side in pixels.shape[-3:-1])
    height, width = mask.shape[1:]
    row, column = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    return (mask[:, row][:, :, column] != 0).reshape(len(mask), -1)


def forward(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """Tokens, the text's before the image's, pooled and logits. Of the image's tokens those of
    padding come last, and are 0. Logits alone where a text is about several images.
    """
    count = apply(method=lambda model: model.fusion.images)
    apart = inputs["pixel_values"].ndim == 5 or np.ndim(inputs.get("pixel_mask", 0)) == 4
    if count > 1 or apart:
        return several(apply, inputs, count)
    pixels = nhwc(inputs["pixel_values"])
    mask = inputs.get("pixel_mask")
    given: dict[str, Any] = {}
    if mask is not None:
        given["mask"] = patch_mask(apply, jnp.asarray(mask), pixels)
    visual = apply(pixels, method="encode_image", **given)
    words = typed_inputs(inputs)
    path = ("fusion", "transformer", UNNORMED)
    found, before = observed(apply, path, visual, words, method="understand")
    found, length = named(found), words["text"].shape[1]
    tokens, before = (real_first(x, visual.mask) for x in (found["tokens"], before))
    states = dict(text_tokens=tokens[:, :length], image_tokens=tokens[:, length:])
    return found | states | {"tokens": tokens, "tokens:unnormed": before}


def real_first(tokens: Any, mask: Any) -> Any:
    """Image and text [B, S + T, D] as text and image, of which the real tokens come first and the
    others are 0. mask: bool[B, S].
    """
    count = mask.shape[1]
    order = jnp.argsort(~mask, axis=1, stable=True)[..., None]
    image = jnp.where(mask[..., None], tokens[:, :count], 0)
    return jnp.concatenate([tokens[:, count:], jnp.take_along_axis(image, order, axis=1)], axis=1)


def tasks(config: Config) -> dict[str, Any]:
    """Answers, of the class that chooses among some, classes of several pictures with a text, or
    retrieval by the match alone.
    """
    length = filled(config)["max_position_embeddings"]
    if kind(config) == "ViltForImageAndTextRetrieval":
        return {"retrieval": dict(length=length, match=dict(), contrast=False)}
    if kind(config) == "ViltForQuestionAnswering":
        return answer_task(config, labels(config), length)
    if kind(config) == SEVERAL:
        names = class_names(config, labels(config))
        return {"classification": dict(labels=names, length=length, pictures=images(config))}
    return {}


VILT = Family(
    model,
    rules,
    example,
    calls={"forward": forward, "match": match_of(forward)},
    renames=(*bert.RENAMES, (r"^mlm_score\.bias$", "mlm_score.decoder.bias")),
    ignored=(*bert.BUFFERS, r"mlm_score\.decoder\.weight"),
    tasks=tasks,
    unordered=("tokens", "image_tokens"),
    classes=dict.fromkeys(PREFIXES, "num_labels"),
)
