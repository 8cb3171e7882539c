"""LXMERT (arXiv:1908.07490): `LxmertModel`, `LxmertForPreTraining` and
`LxmertForQuestionAnswering` folders. Images are features and boxes of detected regions.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_jax.weights.calls import Inputs
from vlm_jax.weights.families import bert
from vlm_jax.weights.family import (
    TWO_WORDS,
    Config,
    Family,
    activation,
    answer_task,
    require,
)
from vlm_jax.weights.fused_calls import match as match_of
from vlm_jax.weights.fused_calls import named, typed_inputs
from vlm_jax.weights.rules import Rules, dense, norm

DEFAULTS: dict[str, Any] = bert.DEFAULTS | dict(
    num_qa_labels=9500,
    num_object_labels=1600,
    num_attr_labels=400,
    l_layers=9,
    x_layers=5,
    r_layers=5,
    visual_feat_dim=2048,
    visual_pos_dim=4,
    task_obj_predict=True,
    task_qa=True,
    visual_obj_loss=True,
    visual_attr_loss=True,
    visual_feat_loss=True,
)
"""What a config.json that leaves a key out means by it."""

QUESTION = 20
"""Tokens of a question, in the released code."""

PREFIXES = {
    "LxmertModel": "",
    "LxmertForPreTraining": "lxmert.",
    "LxmertForQuestionAnswering": "lxmert.",
}
EPSILON = 1e-12
"""The one that no config.json changes."""


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    require(config, tie_word_embeddings=True)
    return DEFAULTS | dict(config) | dict(layer_norm_eps=EPSILON, num_hidden_layers=0)


def kind(config: Config) -> str:
    """The class that a folder was saved from."""
    return bert.architecture(config, {name: name for name in PREFIXES}, "LxmertModel")


def region_scores(config: Config) -> dict[str, int]:
    """What is predicted of every region, with the number of its values."""
    sizes = {"obj": "num_object_labels", "attr": "num_attr_labels", "feat": "visual_feat_dim"}
    return {name: config[key] for name, key in sizes.items() if config[f"visual_{name}_loss"]}


def answers(config: Config) -> bool:
    """Whether there is a head for answers."""
    wanted = kind(config)
    return wanted == "LxmertForQuestionAnswering" or (
        wanted == "LxmertForPreTraining" and config["task_qa"]
    )


def predicts_regions(config: Config) -> bool:
    """Whether there is a head for regions."""
    return kind(config) == "LxmertForPreTraining" and config["task_obj_predict"]


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config = filled(config)
    layers = bert.stack_fields(config)
    parts: dict[str, Any] = dict(
        vision=layers
        | dict(name="regions", layers=config["r_layers"], box_width=config["visual_pos_dim"]),
        text=bert.fields(config, pooler=False) | dict(layers=config["l_layers"]),
        fusion=layers
        | dict(
            name="coattention",
            layers=config["x_layers"],
            shared=True,
            projections=False,
            pooling="first",
        ),
    )
    if kind(config) == "LxmertForPreTraining":
        parts["reconstruct"] = bert.head_fields(config, match=True)
    if predicts_regions(config):
        parts["regions"] = dict(classes=region_scores(config), activation=activation(config))
    if answers(config):
        hidden = dict(hidden=2 * config["hidden_size"], norm="after", epsilon=EPSILON)
        parts["classify"] = dict(classes=config["num_qa_labels"]) | hidden
    return parts


def crossed_rules(ours: str, theirs: str) -> Rules:
    """The layers in which both streams look at each other."""
    layer = f"{theirs}.{{}}"
    rules = bert.attention_rules(f"{ours}/cross", f"{layer}.visual_attention", "cross", "att")
    for stream, short in (("visual", "visn"), ("textual", "lang")):
        rules += bert.attention_rules(f"{ours}/{stream}", f"{layer}.{short}_self_att")
        names = (f"{layer}.{short}_inter", f"{layer}.{short}_output")
        rules += bert.mlp_rules(f"{ours}/{stream}", *names)
    return rules


def rules(config: Config) -> Rules:
    """The mapping table."""
    config = filled(config)
    prefix = PREFIXES[kind(config)]
    encoder, regions = f"{prefix}encoder", f"{prefix}encoder.visn_fc"
    return [
        *dense("vision/features", f"{regions}.visn_fc"),
        *norm("vision/features_norm", f"{regions}.visn_layer_norm"),
        *dense("vision/boxes", f"{regions}.box_fc"),
        *norm("vision/boxes_norm", f"{regions}.box_layer_norm"),
        *bert.layer_rules("vision/transformer/layers", f"{encoder}.r_layers"),
        *bert.embedding_rules("text", f"{prefix}embeddings"),
        *bert.layer_rules("text/transformer/layers", f"{encoder}.layer"),
        *crossed_rules("fusion/layers", f"{encoder}.x_layers"),
        *dense("fusion/pooled", f"{prefix}pooler.dense"),
        *head_rules(config),
    ]


def head_rules(config: Config) -> Rules:
    """What a class has on top."""
    rules: Rules = []
    if kind(config) == "LxmertForPreTraining":
        rules += bert.head_rules("reconstruct_head", match="cls.seq_relationship")
    if predicts_regions(config):
        head = "obj_predict_head"
        rules += dense("regions_head/transform", f"{head}.transform.dense")
        rules += norm("regions_head/norm", f"{head}.transform.LayerNorm")
        for name in region_scores(config):
            rules += dense(f"regions_head/{name}", f"{head}.decoder_dict.{name}")
    if answers(config):
        rules += dense("classify_head/hidden", "answer_head.logit_fc.0")
        rules += norm("classify_head/norm", "answer_head.logit_fc.2")
        rules += dense("classify_head/out", "answer_head.logit_fc.3")
    return rules


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One region and two words."""
    config = filled(config)
    width = config["visual_feat_dim"] + config["visual_pos_dim"]
    region = np.zeros((1, 1, width), np.float32)
    return {"image": region, "words": TWO_WORDS}, {"words": "understand"}


def forward(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """text_tokens, which tokens are too, image_tokens, pooled, and what the heads say: logits of
    words, or else of answers; score, of the match, or else the answers' logits; answers; region_...
    """
    mask = inputs.get("visual_attention_mask")
    given = {} if mask is None else {"mask": mask != 0}
    regions = jnp.concatenate([inputs["visual_feats"], inputs["visual_pos"]], axis=-1)
    visual = apply(regions, method="encode_image", **given)
    words = typed_inputs(inputs)
    found = apply(visual, words, method="understand")
    length = words["text"].shape[1]
    text, image = found["tokens"][:, -length:], found["tokens"][:, :-length]
    regions = {name: x for name, x in found.items() if name.startswith("region_")}
    outputs = named(found) | regions
    outputs |= dict(tokens=text, text_tokens=text, image_tokens=image)
    if "logits" in found:
        outputs |= {"answers": found["logits"], "score": outputs.get("score", found["logits"])}
    return outputs


def tasks(config: Config) -> dict[str, Any]:
    """What the class was trained for: answers, masked words, and retrieval by the match alone."""
    found: dict[str, Any] = {}
    if kind(config) == "LxmertForPreTraining":
        found["masked_pretraining"] = dict(length=QUESTION)
        found["retrieval"] = dict(length=QUESTION, match=dict(), contrast=False)
    if answers(config):
        found |= answer_task(config, filled(config)["num_qa_labels"], QUESTION)
    return found


LXMERT = Family(
    model,
    rules,
    example,
    calls={"forward": forward, "match": match_of(forward)},
    renames=bert.RENAMES,
    classes=dict.fromkeys(PREFIXES, "num_qa_labels"),
    ignored=(*bert.BUFFERS, *bert.TIED),
    tasks=tasks,
)
