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


def visualbert_regions(kind: str, smoke: bool) -> dict[str, Any]:
    """VisualBERT as published (arXiv:1908.03557), which reads the features of detected regions,
    2,048 numbers each. kind: VisualBertForPreTraining or VisualBertForQuestionAnswering, whose
    head has as many answers as the task.
    """
    described: dict[str, Any] = dict(architectures=[kind], visual_embedding_dim=2048)
    if smoke:
        described |= dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        described |= dict(intermediate_size=64, vocab_size=512, max_position_embeddings=64)
    model = published("visual_bert", described)
    model.get("classify", {}).pop("classes", None)
    for part in ("vision", "text", "fusion"):
        model[part] = {**model[part], "dropout": 0.1}
    return model


def small_resnet(width: int) -> dict[str, Any]:
    """Two residual stages for 64-pixel images: 8 x 8 tokens of `width` channels, no batch
    statistics.
    """
    kind = dict(name="resnet", depth=18, stages=(1, 1), norm="group", groups=8)
    return kind | dict(width=width // 2)


def of_drawings() -> dict[str, Any]:
    """Augmentation of the emoji drawings, which are few: crops, mirroring, and mild colours."""
    colours = dict(brightness=0.2, contrast=0.2, saturation=0.2)
    return dict(crop_scale=(0.6, 1.0), flip="swap_words", **colours)


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


def with_neighbours(config: ConfigDict, arg: Any, task: str = "captioning") -> None:
    """Training and evaluation data whose examples bring along the texts of their neighbours among
    the training data, for one task; shrunk if arg.smoke.

    arg: k, neighbours (0: plain data); encoder, who finds them; data, "emoji" or "scenes"; smoke.
    """
    arg = dict(arg)
    emoji = lambda vendor, split: dict(name="emoji", vendor=vendor, split=split, texts=("label",))
    train, tests = scenes("train"), {"test": scenes("test", length=256)}
    if arg["data"] == "emoji":
        train = emoji("openmoji", "seen")
        tests = {
            f"{split}_{vendor}": emoji(vendor, split)
            for split, vendor in (("unseen", "openmoji"), ("unseen", "noto"), ("seen", "noto"))
        }
    config.data = {**config.get("data", {}), "image": dict(size=64)}
    config.evals = {name: dict(task=task, data=test) for name, test in tests.items()}
    config.data.train = train
    if arg["smoke"]:
        shrink(config)
    if not arg["k"]:
        return
    memory = dict(source=config.data.train.to_dict(), encoder=arg["encoder"])
    near = lambda data: dict(name="retrieved", source=data.to_dict(), memory=memory, k=arg["k"])
    config.data.train = near(config.data.train)
    for section in config.evals.values():
        section.data = near(section.data)


SCALE = dict(batch=0, fsdp=1, remat="", bf16=False, blocked=0)
"""Arguments of configs that are run on pods; see `at_scale`."""


def at_scale(config: ConfigDict, arg: ConfigDict) -> None:
    """Makes of a finished config its `shrink`, if arg.smoke, and what a pod needs, as arguments:
    batch, of all chips together (0: as it is); fsdp, over how many chips the state is spread (-1:
    all); remat, to compute activations anew in the backward pass (or a policy of layers.remat, such
    as remat=sliced); bf16, to compute and to exchange in bfloat16, with parameters in float32;
    blocked, words whose scores a decoder's loss computes at a time (0: all).
    """
    from vlm_jax import kwargs, models  # late: most configs need none of them
    from vlm_jax.tasks import TASKS

    if arg.smoke:
        shrink(config)
    if arg.batch:
        config.batch_size = arg.batch
    if arg.fsdp != 1:
        data = 1 if arg.fsdp == -1 else -1
        config.mesh = dict(data=data, fsdp=arg.fsdp)
        if arg.bf16:
            config.mesh.gather_dtype = "bfloat16"
    for name, task in config.tasks.items():
        if arg.blocked and "blocked" in kwargs.keywords(TASKS[task.get("name", name)]):
            task.blocked = arg.blocked
    chosen: dict[str, Any] = {"dtype": "bfloat16"} if arg.bf16 else {}
    switch = {"": False, "false": False, "0": False, "true": True, "1": True}
    if remat := switch.get(arg.remat.lower(), arg.remat):
        chosen["remat"] = remat
    for part, table in models.PARTS.items():
        if config.model.get(part):
            known = kwargs.keywords(table[config.model[part]["name"]])
            config.model[part] = {
                **config.model[part],
                **{key: value for key, value in chosen.items() if key in known},
            }


LITE_STATISTICS = dict(image_mean=(127 / 255,) * 3, image_std=(128 / 255,) * 3)
"""What EfficientNet-Lite subtracts and divides by."""

MINILM = dict(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
SMOLLM2 = dict(vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30)
SMOLLM2 |= dict(num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192)
SMOLLM2 |= dict(rms_norm_eps=1e-5, rope_theta=100_000.0, tie_word_embeddings=True)


def kit(smoke: bool) -> dict[str, Any]:
    """The parts that `python -m vlm_jax.data.prepare kit` fetches, as sections of config.model:
    vision (EfficientNet-Lite0), text (all-MiniLM-L6-v2), decoder (SmolLM2-135M); miniatures of the
    same kinds for smoke tests.
    """
    bert_like, llama = MINILM | dict(vocab_size=30_522), SMOLLM2
    lite: dict[str, Any] = dict(num_classes=0)
    if smoke:
        bert_like = dict(hidden_size=32, num_hidden_layers=1, intermediate_size=64, vocab_size=512)
        llama = llama | dict(vocab_size=512, hidden_size=32, intermediate_size=64)
        llama |= dict(num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
        lite |= dict(stages=(1, 1), stem=8, head=32)
    bert_like |= dict(num_attention_heads=2 if smoke else 12, sentence_pooling="mean")
    return dict(
        vision=published("efficientnet_lite", lite)["vision"],
        text=published("bert", bert_like)["text"],
        decoder=published("llama", llama)["decoder"],
    )


def kit_folder(name: str) -> str:
    """Where a part of the kit lies once it is prepared: "efficientnet_lite0", "minilm",
    "smollm2".
    """
    from vlm_jax.data import kit as parts  # late: most configs need none of them

    return str(parts.kit_folder(name))


def kit_captioning(config: ConfigDict, texts: str, frozen: list[str]) -> None:
    """Emoji drawings and their names for a captioner that begins with EfficientNet-Lite0 and
    SmolLM2: data, evaluations, the weights to begin with, AdamW and its schedule.

    texts: "label", or "tags" for names with keywords. frozen: patterns of parameters.
    """
    vision, decoder = kit_folder("efficientnet_lite0"), kit_folder("smollm2")
    emoji = lambda vendor, split: dict(
        name="features",
        source=dict(name="emoji", vendor=vendor, split=split, size=224, texts=(texts,)),
        vision=vision,
        image=dict(size=224),
        tokens=True,
    )
    config.data = dict(
        train=emoji("openmoji", "seen"),
        image=dict(size=224),
        tokenizer=dict(name="published", folder=decoder),
    )
    config.evals = {
        f"{split}_{vendor}": dict(task="captioning", data=emoji(vendor, split))
        for split, vendor in (("unseen", "openmoji"), ("unseen", "noto"))
    }
    config.init = dict(parts=dict(vision=vision, decoder=decoder))
    config.optimizer = adamw(1e-3, weight_decay=0.05, frozen=frozen)
    config.schedule = dict(name="cosine", warmup_percent=5)
    config.checkpoint = dict(keep_last=1, every_percent=25)  # most of it are frozen weights
