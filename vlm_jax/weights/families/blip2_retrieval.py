"""BLIP-2's first stage (arXiv:2301.12597, section 3.1): `Blip2ForImageTextRetrieval` folders, whose
Q-Former reads an image, a text, or both together.
"""

from collections.abc import Mapping
from typing import Any

from vlm_jax.losses.contrastive import all_products
from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, text_inputs
from vlm_jax.weights.families import bert, qformer
from vlm_jax.weights.family import TWO_WORDS, Config, picture, require
from vlm_jax.weights.fused_calls import named, require_flag, see
from vlm_jax.weights.rules import Rule, Rules, dense

NAME = "Blip2ForImageTextRetrieval"
HEADS = {"contrast_head/image": "vision_projection", "contrast_head/text": "text_projection"}
HEADS |= {"classify_head/out": "itm_head"}
LENGTH = 32
"""Tokens of a text, in the released code."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The vision and the Q-Former's section with everything filled in."""
    section = qformer.QFORMER | dict(config.get("qformer_config") or {})
    require(section, use_qformer_text_input=True, position_embedding_type="absolute")
    return qformer.VISION | dict(config.get("vision_config") or {}), section


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    vision, section = sections(config)
    size = config.get("image_text_hidden_size", 256)
    text = dict(
        name="transformer",
        vocab=section["vocab_size"],
        width=section["hidden_size"],
        layers=0,
        heads=section["num_attention_heads"],
        max_length=section["max_position_embeddings"],
        pooling="none",
        image_token=config.get("image_token_index", config.get("image_token_id")),
    )
    return dict(
        vision=qformer.vision_fields(vision),
        text=text,
        fusion=qformer.qformer_fields(config, section),
        contrast=dict(size=size, scale=None, project_bias=True),
        classify=dict(classes=2),
    )


def rules(config: Config) -> Rules:
    """The mapping table."""
    vision, section = sections(config)
    return [
        *qformer.vision_rules(vision),
        Rule("fusion/queries", "query_tokens"),
        *bert.embedding_rules("text", "embeddings", types=False, normed=False),
        *qformer.qformer_rules(section, "fusion", "qformer"),
        *(rule for name in HEADS for rule in dense(name, HEADS[name])),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words, together and apart."""
    image = {"image": picture(sections(config)[0]["image_size"])}
    texts = {"match": TWO_WORDS, "contrast": TWO_WORDS}
    return image | texts, {"match": "understand", "contrast": "contrast"}


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval by contrast, whose first candidates are matched."""
    return {"retrieval": dict(length=LENGTH, match=dict())}


def words_of(apply: Any, inputs: Inputs) -> dict[str, Any]:
    """The text. Where config.json has an image token, the reference's text begins with one for each
    query, which are left out.
    """
    token, count = apply(method=lambda model: (model.text.image_token, model.fusion.queries))
    given = text_inputs(inputs)
    return {key: x[:, 0 if token is None else count :] for key, x in given.items()}


def match(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """Whether image and text belong together: logits f32[B, 2], also called score and, as in the
    reference, logits_per_image; tokens, of the queries and the text.
    """
    require_flag(flags, "use_image_text_matching_head", True)
    visual = see(apply, inputs)
    found = named(apply(visual, words_of(apply, inputs), method="understand"))
    logits = found["logits"]
    both = dict(logits_per_image=logits, logits_per_text=logits.T, text_embeds=found["tokens"])
    assert visual is not None
    return found | both | dict(score=logits, image_embeds=visual.tokens, image_tokens=visual.tokens)


def contrast(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """image_embeds f32[B, Q, E], one vector per query, text_embeds f32[B, E], and the products of
    each image's best vector with each text, which are the score too.
    """
    require_flag(flags, "use_image_text_matching_head", False)
    visual = see(apply, inputs)
    assert visual is not None
    queries = apply(visual, method=lambda model, seen: model.fusion(seen, None))
    read = apply(words_of(apply, inputs), method=_read)
    embed = lambda model, kind, x: model.contrast_head.embed(kind, x)
    images = apply("image", queries.tokens, method=embed)
    texts = apply("text", read.pooled, method=embed)
    products = all_products(images, texts)
    scores = dict(logits_per_image=products, logits_per_text=products.T, score=products)
    tokens = dict(queries=queries.tokens, text_tokens=read.tokens, image_tokens=visual.tokens)
    return scores | tokens | dict(image_embeds=images, text_embeds=texts)


def _read(model: Any, given: Mapping) -> Features:
    return model.fusion(None, model.encode_text(given))


def forward(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """The contrast, or the match where the flag use_image_text_matching_head says so."""
    matched = flags.get("use_image_text_matching_head", False)
    return (match if matched else contrast)(apply, inputs, flags)
