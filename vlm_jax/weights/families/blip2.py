"""BLIP-2 (arXiv:2301.12597): `Blip2ForConditionalGeneration` folders, with OPT, which reads the
queries before or within its text, or with T5, whose encoder does.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, decoder_inputs, first_token, language, nhwc, text_inputs
from vlm_jax.weights.families import opt, t5
from vlm_jax.weights.family import (
    TWO_TOKENS,
    TWO_WORDS,
    Config,
    Family,
    Shapes,
    activation,
    one_of,
    picture,
    require,
    writing_tasks,
)
from vlm_jax.weights.rules import (
    Rule,
    Rules,
    attention,
    dense,
    for_groups,
    fused_attention,
    norm,
    patches,
    reshaped,
)

VISION: dict[str, Any] = dict(
    hidden_size=1408,
    intermediate_size=6144,
    num_hidden_layers=39,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    qkv_bias=True,
)
QFORMER: dict[str, Any] = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    cross_attention_frequency=2,
)
"""What a config.json that leaves a key out means by it."""

LANGUAGE = "language_model."


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The vision, the Q-Former's and the text section with everything filled in.

    The text section's model_type is "opt" or "t5".
    """
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


def vision_fields(section: Config) -> dict[str, Any]:
    """The EVA tower."""
    return dict(
        name="vit",
        patch=section["patch_size"],
        image_size=section["image_size"],
        width=section["hidden_size"],
        layers=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        activation=activation(section),
        epsilon=section["layer_norm_eps"],
        attention=dict(bias=section["qkv_bias"]),
        pooling="none",
        keep_class_token=True,
    )


def qformer_fields(config: Config, section: Config) -> dict[str, Any]:
    """The Q-Former as fields of `connectors.qformer.QFormer`."""
    return dict(
        name="qformer",
        queries=config.get("num_query_tokens", 32),
        width=section["hidden_size"],
        layers=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        cross_every=section["cross_attention_frequency"],
        activation=activation(section),
        epsilon=section["layer_norm_eps"],
    )


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    vision, qformer, text = sections(config)
    eyes = dict(vision=vision_fields(vision), connector=qformer_fields(config, qformer))
    if text["model_type"] == "opt":
        return eyes | dict(decoder=opt.fields(text) | image_fields(config))
    language = t5.model(text)
    return eyes | language | dict(text=language["text"] | image_fields(config))


def rules(config: Config) -> Rules:
    """The mapping table."""
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


def vision_rules(section: Config, ours: str = "vision", theirs: str = "vision_model") -> Rules:
    """The EVA tower, whose query, key and value are one tensor."""
    embeddings, layers = f"{theirs}.embeddings", f"{ours}/transformer/layers"
    each = f"{theirs}.encoder.layers.{{}}"
    qkv = f"{each}.self_attn.qkv"
    fused = fused_attention(
        f"{layers}/self_attention",
        f"{qkv}.weight",
        f"{qkv}.bias",
        f"{each}.self_attn.projection",
    )
    if not section["qkv_bias"]:
        fused = [rule for rule in fused if rule.theirs != f"{qkv}.bias"]
    table = reshaped((-1, section["hidden_size"]), (1, -1, section["hidden_size"]))
    return [
        *dense(
            f"{ours}/patch_embedding",
            f"{embeddings}.patch_embedding",
            form=patches(section["patch_size"]),
        ),
        Rule(f"{ours}/class_token", f"{embeddings}.class_embedding"),
        Rule(f"{ours}/position", f"{embeddings}.position_embedding", table),
        *norm(f"{layers}/self_norm", f"{each}.layer_norm1"),
        *fused,
        *norm(f"{layers}/mlp_norm", f"{each}.layer_norm2"),
        *dense(f"{layers}/mlp/up", f"{each}.mlp.fc1"),
        *dense(f"{layers}/mlp/down", f"{each}.mlp.fc2"),
        *norm(f"{ours}/transformer/final_norm", f"{theirs}.post_layernorm"),
    ]


def qformer_rules(section: Config, ours: str, theirs: str) -> Rules:
    """The Q-Former but for its queries."""
    each = f"{theirs}.encoder.layer.{{}}"
    names = ("attention.query", "attention.key", "attention.value", "output.dense")

    def usual(layer: str) -> Rules:
        return [
            *attention(f"{layer}/self_attention", f"{each}.attention", names),
            *norm(f"{layer}/self_norm", f"{each}.attention.output.LayerNorm"),
            *dense(f"{layer}/mlp/up", f"{each}.intermediate_query.dense"),
            *dense(f"{layer}/mlp/down", f"{each}.output_query.dense"),
            *norm(f"{layer}/mlp_norm", f"{each}.output_query.LayerNorm"),
        ]

    def cross(layer: str) -> Rules:
        return [
            *attention(f"{layer}/cross_attention", f"{each}.crossattention", names),
            *norm(f"{layer}/cross_norm", f"{each}.crossattention.output.LayerNorm"),
        ]

    size = (section["num_hidden_layers"], section["cross_attention_frequency"])
    return [
        *norm(f"{ours}/queries_norm", f"{theirs}.layernorm"),
        *for_groups(usual, cross, f"{ours}/transformer", *size),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words, to read too where there is an encoder."""
    vision, _, text = sections(config)
    words = TWO_TOKENS if text["model_type"] == "opt" else TWO_WORDS | TWO_TOKENS
    return {"image": picture(vision["image_size"]), "words": words}, {"words": "generate"}


def settle(config: Config, shapes: Shapes) -> Config:
    """The config with what the tensors tell of T5's output layer."""
    text = sections(config)[2]
    if text["model_type"] == "opt":
        return config
    text = t5.settle(config["text_config"], shapes, LANGUAGE)
    return dict(config) | dict(text_config=text)


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers and tied copies."""
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
    return memory, t5.decoder_tokens(inputs)


def forward(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """logits, and the states before: image_tokens and queries."""
    seen, queries = look(apply, inputs)
    call = language(lambda apply, inputs: read_queries(apply, inputs, queries))["forward"]
    known = {"image_tokens": seen.tokens, "queries": queries.tokens}
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
    """Captions without a prompt, and answers (arXiv:2301.12597, section 4.2)."""
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
    calls={"forward": forward, "generate": generate},
    ignored=ignored,
    settle=settle,
    tasks=tasks,
)
