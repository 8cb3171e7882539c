"""BLIP-2 (arXiv:2301.12597): `Blip2ForConditionalGeneration` folders, with OPT, which reads the
queries before or within its text, or with T5, whose encoder does; and the folders of
`families.blip2_retrieval`.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, decoder_inputs, language, nhwc, text_inputs
from vlm_jax.weights.families import blip2_retrieval as retrieval
from vlm_jax.weights.families import opt, t5
from vlm_jax.weights.families.qformer import (
    QFORMER,
    VISION,
    qformer_fields,
    qformer_rules,
    vision_fields,
    vision_rules,
)
from vlm_jax.weights.family import (
    TWO_TOKENS,
    TWO_WORDS,
    Config,
    Family,
    Shapes,
    of_class,
    one_of,
    picture,
    require,
    writing_tasks,
)
from vlm_jax.weights.fused_calls import has, normed_again
from vlm_jax.weights.generation import first_token
from vlm_jax.weights.rules import Rule, Rules, dense

LANGUAGE = "language_model."


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The vision, the Q-Former's and the text section with everything filled in.

    The text section's model_type is "opt" or "t5".
    """
    of_class(config, "Blip2ForConditionalGeneration", "Blip2Model")
    vision = VISION | dict(config.get("vision_config") or {})
    qformer = QFORMER | dict(config.get("qformer_config") or {})
    require(qformer, use_qformer_text_input=False)
    text = dict(model_type="opt") | dict(config.get("text_config") or {})
    filled = one_of(text, "model_type", {"opt": opt.filled, "t5": t5.filled})
    return vision, qformer, filled(text)


def image_fields(config: Config) -> dict[str, Any]:
    """How the language model reads the queries."""
    token = config.get("image_token_index", config.get("image_token_id"))
    how = dict(memory="prepend") if token is None else dict(memory="insert", image_token=token)
    return how | dict(memory_projection=True)


def retrieves(config: Config) -> bool:
    """Whether a folder has heads for retrieval, and no language model."""
    return retrieval.NAME in (config.get("architectures") or ())


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    if retrieves(config):
        return retrieval.model(config)
    vision, qformer, text = sections(config)
    eyes = dict(vision=vision_fields(vision), connector=qformer_fields(config, qformer))
    if text["model_type"] == "opt":
        return eyes | dict(decoder=opt.fields(text) | image_fields(config))
    language = t5.model(text)
    return eyes | language | dict(text=language["text"] | image_fields(config))


def rules(config: Config) -> Rules:
    """The mapping table."""
    if retrieves(config):
        return retrieval.rules(config)
    vision, qformer, text = sections(config)
    table = [
        *vision_rules(vision),
        Rule("connector/queries", "query_tokens"),
        *qformer_rules(qformer, "connector", "qformer"),
    ]
    if text["model_type"] == "opt":
        projection, language = "decoder/memory", opt.lm_rules(text, prefix=LANGUAGE)
    else:
        projection, language = "text/memory_projection", t5.lm_rules(text, prefix=LANGUAGE)
    return [*table, *dense(projection, "language_projection"), *language]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words, to read too where there is an encoder."""
    if retrieves(config):
        return retrieval.example(config)
    vision, _, text = sections(config)
    words = TWO_TOKENS if text["model_type"] == "opt" else TWO_WORDS | TWO_TOKENS
    return {"image": picture(vision["image_size"]), "words": words}, {"words": "generate"}


def settle(config: Config, shapes: Shapes) -> Config:
    """The config with what the tensors tell of T5's output layer."""
    if retrieves(config):
        return config
    text = sections(config)[2]
    if text["model_type"] == "opt":
        return config
    text = t5.settle(config["text_config"], shapes, LANGUAGE)
    return dict(config) | dict(text_config=text)


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers and tied copies."""
    if retrieves(config):
        return (r".*\.position_ids",)
    text = sections(config)[2]
    tied = (r"language_model\.lm_head\.weight",) if text["tie_word_embeddings"] else ()
    return (r".*\.position_ids", *t5.IGNORED, *tied)


def look(apply: Any, inputs: Inputs) -> tuple[Features, Features]:
    """The vision tower's tokens, and the Q-Former's."""
    pixels = nhwc(inputs["pixel_values"])
    seen = apply(pixels, method=lambda network, image: network.vision(image))
    return seen, apply(seen, method=lambda network, features: network.connector(features))


def read_queries(apply: Any, inputs: Inputs, queries: Features) -> tuple[Features, dict[str, Any]]:
    """Queries and text as what a decoder of ours reads."""
    if "decoder_input_ids" not in inputs:
        return queries, decoder_inputs(inputs)
    memory = apply(queries, text_inputs(inputs), method="memory")
    return memory, t5.decoder_tokens(inputs) | {"text_tokens": memory.tokens}


def forward(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """logits and tokens, and the states before: image_tokens, queries and T5's text_tokens; pooled,
    of the tower or the first query.
    """
    if not has(apply, "decoder"):
        return retrieval.forward(apply, inputs, flags)
    seen, queries = look(apply, inputs)
    call = language(lambda apply, inputs: read_queries(apply, inputs, queries))["forward"]
    pooled = {"pooled": normed_again(apply, seen), "pooled:queries": queries.tokens[:, 0]}
    known = {"image_tokens": seen.tokens, "queries": queries.tokens} | pooled
    return known | call(apply, inputs, flags)


def generate(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """tokens. Without input_ids, the text begins with the image's tokens and bos_token_id."""
    _, queries = look(apply, inputs)
    rows, count = queries.tokens.shape[:2]
    encodes, token = apply(method=_wiring)
    start = jnp.full((rows, 1), first_token(flags), jnp.int32)
    if "input_ids" not in inputs:
        begin = jnp.full((rows, 1), flags.get("bos_token_id", first_token(flags)), jnp.int32)
        images = jnp.full((rows, 0 if token is None else count), token or 0, jnp.int32)
        inputs = {**inputs, "input_ids": jnp.concatenate([images, begin], axis=1)}
    if encodes and "decoder_input_ids" not in inputs:
        inputs = {**inputs, "decoder_input_ids": start}
    call = language(lambda apply, inputs: read_queries(apply, inputs, queries))["generate"]
    return call(apply, inputs, flags)


def _wiring(network: Any) -> tuple[bool, int | None]:
    """Whether an encoder reads the text, and which of its tokens stand for the image."""
    reader = network.decoder if network.text is None else network.text
    return network.text is not None, reader.image_token


def tasks(config: Config) -> dict[str, Any]:
    """Captions without a prompt, and answers (arXiv:2301.12597, section 4.2), or retrieval."""
    if retrieves(config):
        return retrieval.tasks(config)
    text, fields = sections(config)[2], image_fields(config)
    images, shown = None, ""
    if "image_token" in fields:
        count, token = config.get("num_query_tokens", 32), str(fields["image_token"])
        images, shown = dict(name="run", token=token, count=count), "{picture}"
    question = "Question: {prompt} Answer:"
    if text["model_type"] == "opt":
        found = writing_tasks(f"{shown}{{bos}}{{prompt}}", picture=images)
        found["vqa_generation"]["template"] = f"{shown}{{bos}}{question}"
        return found
    start = text.get("decoder_start_token_id") or 0
    found = writing_tasks(f"{{{start}}}", picture=images)
    found["captioning"] |= dict(text_template=f"{shown}{{prompt}}{{eos}}", text_length=8)
    asked = dict(question_to="text", text_template=f"{shown}{question}{{eos}}", length=32)
    return found | dict(vqa_generation=found["vqa_generation"] | asked)


BLIP2 = Family(
    model,
    rules,
    example,
    calls={"forward": forward, "generate": generate}
    | {"match": retrieval.match, "contrast": retrieval.contrast},
    ignored=ignored,
    settle=settle,
    tasks=tasks,
    inner=True,
)
