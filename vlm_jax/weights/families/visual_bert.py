"""VisualBERT (arXiv:1908.03557): `VisualBertModel`, `VisualBertForPreTraining`,
`VisualBertForQuestionAnswering`, `VisualBertForVisualReasoning` (NLVR2),
`VisualBertForMultipleChoice` (VCR) and `VisualBertForRegionToPhraseAlignment` (Flickr30k Entities)
folders. Images are features of detected regions; two images are the regions of both.
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
    answer_task,
    class_names,
    labels,
    require,
)
from vlm_jax.weights.fused_calls import match as match_of
from vlm_jax.weights.fused_calls import named, text_first, typed_inputs
from vlm_jax.weights.rules import Rule, Rules, dense, norm

DEFAULTS: dict[str, Any] = bert.DEFAULTS | dict(visual_embedding_dim=512, bypass_transformer=False)
"""What a config.json that leaves a key out means by it."""

QUESTION = 128
"""Tokens of a question, in the released code."""

REASONING, CHOICE = "VisualBertForVisualReasoning", "VisualBertForMultipleChoice"
PHRASES = "VisualBertForRegionToPhraseAlignment"
PREFIXES = {"VisualBertModel": ""} | dict.fromkeys(
    ("VisualBertForPreTraining", "VisualBertForQuestionAnswering", REASONING, CHOICE, PHRASES),
    "visual_bert.",
)


def filled(config: Config) -> dict[str, Any]:
    """The config with every key there."""
    require(config, bypass_transformer=False, position_embedding_type="absolute")
    return DEFAULTS | dict(config)


def kind(config: Config) -> str:
    """The class that a folder was saved from."""
    return bert.architecture(config, {name: name for name in PREFIXES}, "VisualBertModel")


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, wanted = filled(config), kind(config)
    answers = wanted == "VisualBertForQuestionAnswering"
    width, types = config["hidden_size"], config["type_vocab_size"]
    table = config["max_position_embeddings"]
    text = bert.fields(config, pooler=False) | dict(layers=0, embedding_norm=False)
    pooling = "before_last" if answers else "start"
    parts: dict[str, Any] = dict(
        vision=dict(name="regions", width=width, types=types, positions=table),
        text=text,
        fusion=bert.stack_fields(config)
        | dict(name="cross_modal", visual_projection=False, segments=0, pooling=pooling),
    )
    if answers or wanted in (REASONING, CHOICE):
        parts["classify"] = dict(classes=1 if wanted == CHOICE else labels(config))
    if wanted in ("VisualBertForPreTraining", PHRASES):
        parts["reconstruct"] = bert.head_fields(config, match=True)
    if wanted == PHRASES:
        parts["ground"] = dict(width=width // config["num_attention_heads"])
    return parts


def rules(config: Config) -> Rules:
    """The mapping table."""
    wanted = kind(config)
    prefix = PREFIXES[wanted]
    embeddings = f"{prefix}embeddings"
    table = [
        *dense("vision/features", f"{embeddings}.visual_projection"),
        Rule("vision/type/embedding", f"{embeddings}.visual_token_type_embeddings.weight"),
        Rule("vision/position", f"{embeddings}.visual_position_embeddings.weight"),
        *bert.embedding_rules("text", embeddings, normed=False),
        *norm("fusion/embed_norm", f"{embeddings}.LayerNorm"),
        *bert.layer_rules("fusion/transformer/layers", f"{prefix}encoder.layer"),
        *dense("fusion/pooled", f"{prefix}pooler.dense"),
    ]
    if wanted in ("VisualBertForQuestionAnswering", REASONING, CHOICE):
        table += dense("classify_head/out", "cls")
    if wanted == PHRASES:
        for name in ("query", "key", "value"):
            table += dense(f"ground_head/{name}", f"attention.{name}")
    if wanted in ("VisualBertForPreTraining", PHRASES):
        table += bert.head_rules("reconstruct_head", match="cls.seq_relationship")
    return table


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One region and two words."""
    region = np.zeros((1, 1, filled(config)["visual_embedding_dim"]), np.float32)
    return {"image": region, "words": TWO_WORDS}, {"words": "understand"}


def forward(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """Tokens and logits, the text's before the regions', pooled, and score. Of several choices,
    whose arrays have an axis for them behind the first, logits [B, choices]; of phrases those of
    regions at region_to_phrase_position [B, P], which counts words before regions.

    ValueError for image_text_alignment, which is not supported.
    """
    if "image_text_alignment" in inputs:
        raise ValueError("image_text_alignment is not supported: leave it out")
    choices = inputs["input_ids"].shape[1:-1]
    if choices:
        inputs = {name: x.reshape(-1, *x.shape[2:]) for name, x in inputs.items()}
    given = dict(mask="visual_attention_mask", types="visual_token_type_ids")
    given = {ours: inputs[theirs] for ours, theirs in given.items() if theirs in inputs}
    if "mask" in given:
        given["mask"] = given["mask"] != 0
    visual = apply(inputs["visual_embeds"], method="encode_image", **given)
    words = typed_inputs(inputs)
    found = apply(visual, words, everywhere=True, method="understand")
    outputs = text_first(named(found), words["text"].shape[1])
    if choices:
        outputs["logits"] = outputs["logits"].reshape(-1, *choices)
    if "region_scores" in found:
        scores = text_first(found, words["text"].shape[1], ("region_scores",))["region_scores"]
        place = jnp.maximum(inputs["region_to_phrase_position"], 0)
        scores = jnp.take_along_axis(scores, place[..., None], axis=1)
        outputs |= {"prediction_logits": outputs["logits"], "logits": scores}
    return outputs


def tasks(config: Config) -> dict[str, Any]:
    """Answers, of the class that chooses among some, or masked words and whether two captions are
    of the picture, for which the first score speaks; classes of two pictures with a text; the order
    of texts for a picture.
    """
    wanted = kind(config)
    if wanted == "VisualBertForPreTraining":
        return {"masked_pretraining": dict(length=QUESTION, match_class=0)}
    if wanted == REASONING:
        names = class_names(config, labels(config))
        return {"classification": dict(labels=names, length=QUESTION, pictures=2)}
    if wanted == CHOICE:
        return {"retrieval": dict(length=QUESTION, match=dict(), contrast=False)}
    if wanted == PHRASES:
        return {"masked_pretraining": dict(length=QUESTION, match_weight=0.0, mismatch_rate=0.0)}
    answers = wanted == "VisualBertForQuestionAnswering"
    return answer_task(config, labels(config), QUESTION) if answers else {}


VISUAL_BERT = Family(
    model,
    rules,
    example,
    calls={"forward": forward, "match": match_of(forward)},
    renames=bert.RENAMES,
    classes=dict.fromkeys(PREFIXES, "num_labels"),
    ignored=(*bert.BUFFERS, *bert.TIED),
    tasks=tasks,
)
