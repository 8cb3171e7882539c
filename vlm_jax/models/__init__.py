"""From a config's `model` section to a model, and the reasons why some combinations are none."""

from collections.abc import Collection, Mapping
from typing import Any

from vlm_jax import kwargs
from vlm_jax.connectors import CONNECTORS
from vlm_jax.decoders import DECODERS
from vlm_jax.encoders import AUDIO_ENCODERS, TEXT_ENCODERS, VISION_ENCODERS
from vlm_jax.fusion import FUSIONS
from vlm_jax.models.flow_generator import make_flow_generator
from vlm_jax.models.heads import HEADS
from vlm_jax.models.image_generator import make_image_generator
from vlm_jax.models.image_tokenizer import ImageTokenizer
from vlm_jax.models.vision_language import VisionLanguageModel

PARTS = {
    "vision": VISION_ENCODERS,
    "connector": CONNECTORS,
    "text": TEXT_ENCODERS,
    "audio": AUDIO_ENCODERS,
    "fusion": FUSIONS,
    "decoder": DECODERS,
}
"""Parts chosen by their `name` key; the heads of HEADS have one kind each."""

NETWORKS = {
    "image_tokenizer": ImageTokenizer,
    "image_generator": make_image_generator,
    "flow_generator": make_flow_generator,
}
"""Models with a wiring of their own, chosen by `name` in config.model: those that draw."""

DRAWS = {
    "image_tokenizer": ("reconstruct_image",),
    "image_generator": ("next_tokens", "hidden_tokens"),
    "flow_generator": ("velocity",),
}
"""What tasks may ask of each of them."""

NEEDS = {
    "generate": ("decoder",),
    "unembed": ("decoder",),
    "classify": ("classify",),
    "contrast": ("text", "contrast"),
    "match": ("vision", "text", "contrast", "classify"),
    "pair": ("vision", "text"),
    "reconstruct": ("text", "reconstruct"),
    "label_regions": ("regions",),
}
"""Model method to the parts of the config that it uses."""

JOINING, JOINED = ("pair", "reconstruct"), ("fusion",)
"""Methods that read an image, where the model sees any, with a text, and what they need for it."""

ATTENDING = ("attending_lstm", "causal_lm", "coca")
UNEMBEDDING = ("causal_lm",)
"""Decoders that can leave the computation of scores to the loss."""

TOWERS = ("coca",)
"""Decoders with a text encoder of their own."""

MIXING = ("coattention", "cross_modal", "qformer")
"""Fusions in which every word also sees every other word."""


class InvalidModel(ValueError):
    """Parts that do not fit together, found before anything is built. The message says why and what
    to change.
    """


def build(config: Mapping[str, Any]) -> Any:
    """The model of a config: {"vision": {"name": ..., **fields}, "text": ..., "decoder": ...,
    "contrast": ...}.

    Absent or None parts are left out. TypeError or ValueError, with a suggestion, for an unknown
    key or name. A config with a name of its own describes one of NETWORKS.
    """
    if "name" in config:
        return kwargs.build(NETWORKS, config, "config.model")
    given = {key: value for key, value in dict(config).items() if value is not None}
    fields = [key for key in kwargs.keywords(VisionLanguageModel) if key.startswith("image_")]
    kwargs.check_keys(given, [*PARTS, *HEADS, *fields, "shared_words"], "config.model")
    if not given.keys() & {"vision", "text", "decoder"}:
        raise TypeError("config.model lacks the required key 'vision'")
    parts: dict[str, Any] = {
        name: kwargs.build(table, given[name], f"config.model.{name}")
        for name, table in PARTS.items()
        if name in given
    }
    for name, head in HEADS.items():
        if name in given:
            parts[f"{name}_head"] = kwargs.call(head, given[name], f"config.model.{name}")
    parts |= {key: tuple(map(float, given[key])) for key in fields if key in given}
    return VisionLanguageModel(**parts, shared_words=given.get("shared_words", False))


def check(
    config: Mapping[str, Any], asks: Mapping[str, str], question_in_text: bool = False
) -> None:
    """InvalidModel with one sentence per reason why a model of this config cannot do what the tasks
    ask.

    asks: task name to model method. question_in_text: some task sends its question through
    the text encoder.
    """
    if "name" in config:
        return _check_network(config["name"], asks)
    has = {name for name, value in dict(config).items() if value is not None}
    if dict(config.get("decoder") or {}).get("name") in TOWERS:
        has.add("text")
    if "fusion" not in has and dict(config.get("vision") or {}).get("classes"):
        has.add("classify")  # the encoder ends in class scores
    problems = [
        f"task {task} needs config.model.{part}: add it, or drop the task"
        for task, ask in asks.items()
        for part in (*NEEDS[ask], *(JOINED if ask in JOINING and "vision" in has else ()))
        if part not in has
    ]
    text = dict(config.get("text") or {})
    looking = "cross" in text.get("parts", ())
    reading = looking or text.get("memory") in ("prepend", "insert")  # T5 beside an image
    if question_in_text and not ("text" in has and ("fusion" in has or reading)):
        problems.append(
            "a question that goes through the text encoder needs config.model.text and "
            'config.model.fusion, or "cross" among the parts of the text encoder: '
            'add them, or let a decoder read it (task vqa_generation with question_to="decoder")'
        )
    if "match" in asks.values():
        problems += _unmatchable(config, "fusion" in has or looking)
    problems += _misfits(config, set(asks.values()), question_in_text)
    if problems:
        raise InvalidModel("; ".join(problems))


def _check_network(name: str, asks: Mapping[str, str]) -> None:
    """InvalidModel if a task asks what this network cannot do, or a network for what it is not."""
    able = kwargs.lookup(DRAWS, name, "config.model.name")
    for task, ask in asks.items():
        if ask not in able:
            others = ", ".join(other for other in DRAWS if ask in DRAWS[other])
            raise InvalidModel(
                f"task {task} needs what {name} cannot do: set config.model.name to one of "
                f"{others or 'none, but give config.model its parts'}"
            )


def _misfits(
    config: Mapping[str, Any], methods: Collection[str], question_in_text: bool
) -> list[str]:
    """Sentences about parts that are all there and still do not go together.

    methods: the model methods that tasks ask for.
    """
    parts = ("vision", "text", "fusion", "decoder")
    vision, text, fusion, decoder = (dict(config.get(name) or {}) for name in parts)
    problems = []
    if fusion and not text:
        problems.append(
            "fusion joins image and text, but there is no text encoder: add config.model.text"
        )
    apart = text and vision and not fusion
    if apart and "classify" in methods and "contrast" not in methods:
        problems.append(
            "the classifier would never see the text: add config.model.fusion, or remove "
            "config.model.text"
        )
    if "unembed" in methods and decoder.get("name") not in UNEMBEDDING:
        problems.append(
            f"decoder {decoder.get('name')} computes all scores at once: drop `blocked` from the "
            f"task, or use one of {', '.join(UNEMBEDDING)}"
        )
    writes = {"generate", "unembed"} & set(methods)
    attends = decoder.get("name") in ATTENDING and writes and not question_in_text
    if attends and vision.get("features") == "fc2":
        problems.append(
            f"decoder {decoder['name']} attends over image positions, but vision features='fc2' "
            'is one vector: use features="map" or decoder lstm_merge'
        )
    if text.get("causal") and text.get("pooling", "first") == "first":
        problems.append(
            "the first token of a causal text encoder has seen no other and cannot stand for the "
            'text: set config.model.text.pooling to "last", "eos", "mean" or "none"'
        )
    joined = fusion or not vision
    if text and joined and "reconstruct" in methods and not _sees_both_sides(text, fusion):
        problems.append(
            "masked words are predicted from the words on both sides, which neither this text "
            "encoder nor this fusion looks at: use a transformer with causal=False, a recurrent "
            f"encoder with bidirectional=True, or one of the fusions {', '.join(MIXING)}"
        )
    return problems


def _unmatchable(config: Mapping[str, Any], joined: bool) -> list[str]:
    """Sentences about what keeps a model from judging whether image and text belong together."""
    problems = []
    if "text" in config and not joined:
        problems.append(
            "matching reads image and text together: add config.model.fusion, or "
            '"cross" to the parts of config.model.text'
        )
    classes = dict(config.get("classify") or {}).get("classes", 2)
    if classes != 2:
        problems.append(
            f"matching knows two classes, config.model.classify has {classes}: set classes=2"
        )
    return problems


def _sees_both_sides(text: Mapping[str, Any], fusion: Mapping[str, Any]) -> bool:
    """Whether a fused word knows the words before and after it."""
    encoders = {
        "recurrent": text.get("bidirectional", False),
        "transformer": not text.get("causal", False),
    }
    return encoders.get(text.get("name", ""), False) or fusion.get("name") in MIXING
