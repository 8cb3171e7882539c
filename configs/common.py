"""What config files share: typed arguments, common parts, and the shrinking to a smoke test."""

from typing import Any

from ml_collections import ConfigDict

from vlm_jax.kwargs import suggestion


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """The text after `configs/x.py:` as values of the defaults' types.

    "res=64,smoke" with defaults res=224, smoke=False gives res=64 (an int) and smoke=True. A bare
    word is a switch. ValueError for an unknown name, or a value that does not have the default's
    type.
    """
    values = ConfigDict(defaults)
    for part in filter(None, (arg or "").split(",")):
        name, separator, text = part.partition("=")
        if name not in defaults:
            hint = suggestion(name, defaults)
            raise ValueError(
                f"unknown config argument {name!r}; {hint}valid: {', '.join(defaults)}"
            )
        values[name] = _typed(name, text if separator else "true", type(defaults[name]))
    return values


def _typed(name: str, text: str, kind: type) -> Any:
    """One value; ValueError naming the argument if it does not parse."""
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"config argument {name}={text!r} must be true or false")
        return text.lower() in ("true", "1")
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(
            f"config argument {name}={text!r} must be of type {kind.__name__}"
        ) from error


def adamw(learning_rate: float, **overrides: Any) -> dict[str, Any]:
    """AdamW with gradient clipping at norm 1, as most configs here use it."""
    return (
        dict(name="adamw", learning_rate=learning_rate, weight_decay=0.01, clip_norm=1.0)
        | overrides
    )


def scenes(split: str, **options: Any) -> dict[str, Any]:
    """The built-in procedural data set (`vlm_jax.data.scenes`)."""
    return dict(name="scenes", split=split) | options


def shrink(config: ConfigDict) -> ConfigDict:
    """The same run in seconds: two steps of eight examples, sixteen examples per evaluation, on the
    built-in scenes.

    The model stays as the config makes it: configs pass small sizes to theirs when `smoke` is set.
    """
    config.batch_size = 8
    for key in ("total_examples", "total_epochs"):
        if key in config:
            del config[key]
    config.total_steps = 2
    config.schedule = dict(name="constant")
    config.logs = dict(every_steps=1, tensorboard={})
    config.expected = {}
    config.data.train = scenes("train", length=64)
    config.data.tokenizer = dict(name="word", examples=64)
    for section in config.evals.values():
        section.data = scenes("test", length=16, captions=1, questions=2)
    return config


def bert(smoke: bool, **overrides: Any) -> dict[str, Any]:
    """BERT-base (arXiv:1810.04805, section 3) as a text encoder; a two-layer miniature for smoke
    tests.
    """
    size = dict(width=768, layers=12, heads=12, mlp_width=3072, vocab=30522, max_length=512)
    if smoke:
        size = dict(width=32, layers=2, heads=2, mlp_width=64, vocab=512, max_length=64)
    kind = dict(
        norm_first=False,
        embedding_norm=True,
        token_types=2,
        pooler="tanh",
        epsilon=1e-12,
        dropout=0.1,
    )
    return dict(name="transformer") | size | kind | overrides


def resnet50(smoke: bool, **overrides: Any) -> dict[str, Any]:
    """ResNet-50 v1.5 (arXiv:1512.03385) with frozen batch statistics; narrow and shallow for smoke
    tests.
    """
    size = dict(stages=(1, 1, 1, 1), width=8) if smoke else {}
    return dict(name="resnet", depth=50) | size | overrides


def visualbert(smoke: bool) -> dict[str, Any]:
    """ResNet-50 grid, BERT embeddings and layers, and a single-stream fusion: the two stages share
    this model.
    """
    text = bert(smoke, layers=1, pooler="none")
    joint = (
        dict(width=32, layers=2, heads=2, mlp_width=64)
        if smoke
        else dict(width=768, layers=11, heads=12, mlp_width=3072)
    )
    fusion = dict(name="cross_modal", pooling="first", dropout=0.1) | joint
    return dict(vision=resnet50(smoke), text=text, fusion=fusion) | IMAGENET_STATISTICS


def small_resnet(width: int) -> dict[str, Any]:
    """Two residual stages for 64-pixel images: 8 x 8 tokens of `width` channels, no batch
    statistics.
    """
    kind = dict(name="resnet", depth=18, stages=(1, 1), norm="group", groups=8)
    return kind | dict(width=width // 2)


def small_vit(width: int) -> dict[str, Any]:
    """Three layers over the 8 x 8 grid of a 64-pixel image, with a convolutional stem
    (arXiv:2106.14881).
    """
    size = dict(width=width, layers=3, heads=4, mlp_width=2 * width, patch=8, image_size=64)
    return (
        dict(name="vit", stem="conv", activation="relu", class_token=False, pooling="mean") | size
    )


IMAGENET_STATISTICS = dict(image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225))
"""Per-channel mean and deviation of ImageNet in RGB, as torchvision's weights expect them."""


def coco(split: str, **options: Any) -> dict[str, Any]:
    """COCO captions (arXiv:1504.00325) as prepared by `tfds build coco_captions` with
    file_format=array_record.
    """
    return dict(name="tfds", dataset="coco_captions", split=split) | options


def published(model_type: str, given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The model that a published config.json with these keys describes, as `config.model`.

    So a config states the numbers that the authors published, under the names they gave them.
    changes: sections of config.model to replace.
    """
    from vlm_jax.weights.families import FAMILIES  # late: most configs need none of them

    return dict(FAMILIES[model_type].model(given)) | changes


def fine_tune(config: ConfigDict, folder: str, **tokenizer: Any) -> None:
    """Start from the published checkpoint in `folder`, with its tokenizer; without one (""), start
    from noise with a tokenizer learned from the training texts.
    """
    if folder:
        config.init = folder
        tokenizer = dict(name="published", folder=folder)
    config.data.tokenizer = tokenizer


CLIP_STATISTICS = dict(
    image_mean=(0.48145466, 0.4578275, 0.40821073), image_std=(0.26862954, 0.26130258, 0.27577711)
)
"""Per-channel mean and deviation of CLIP's training pictures, which BLIP, GIT and LLaVA kept."""


def vqav2(split: str) -> dict[str, Any]:
    """VQAv2 (arXiv:1612.00837) as prepared by `python -m vlm_jax.data.prepare vqav2`."""
    return dict(name="tfds", dataset="vqav2", split=split)
