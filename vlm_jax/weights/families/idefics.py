"""IDEFICS, an open Flamingo (arXiv:2204.14198, arXiv:2306.16527): `IdeficsForVisionText2Text`
folders.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, decoder_inputs, language, nhwc
from vlm_jax.weights.families import clip, llama
from vlm_jax.weights.family import (
    Call,
    Config,
    Family,
    caption_example,
    one_of,
    writing_tasks,
)
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import (
    AS_IT_IS,
    BATCHED,
    Rule,
    Rules,
    attention,
    dense,
    for_groups,
    norm,
    reshaped,
)

DEFAULTS: dict[str, Any] = dict(
    additional_vocab_size=0,
    alpha_type="float",
    cross_layer_interval=1,
    qk_layer_norms=False,
    use_resampler=False,
)
VISION: dict[str, Any] = dict(
    embed_dim=768,
    image_size=224,
    intermediate_size=5120,
    patch_size=14,
    num_hidden_layers=32,
    num_attention_heads=16,
    num_channels=3,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
)
PERCEIVER: dict[str, Any] = dict(
    resampler_n_latents=64,
    resampler_depth=6,
    resampler_n_heads=16,
    resampler_head_dim=96,
    qk_layer_norms_perceiver=False,
)
"""What a config.json that leaves a key out means by it."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The config, its vision and its perceiver section, with everything filled in.

    WeightsError where gated layers do not divide the layers, which the reference cannot run.
    """
    config = DEFAULTS | llama.filled(config)
    vision = VISION | dict(config.get("vision_config") or {})
    vision["hidden_size"] = vision["embed_dim"]
    perceiver = PERCEIVER | dict(config.get("perceiver_config") or {})
    layers, every = config["num_hidden_layers"], config["cross_layer_interval"]
    if layers % every:
        raise WeightsError(
            f"config.json: cross_layer_interval={every} is not supported with num_hidden_layers="
            f"{layers}, which it does not divide"
        )
    return config, vision, perceiver


def perceiver_fields(section: Config, width: int) -> dict[str, Any]:
    """The resampler as fields of `connectors.perceiver.PerceiverResampler`."""
    normed = dict(qk_norm="layer") if section["qk_layer_norms_perceiver"] else {}
    return dict(
        name="perceiver",
        latents=section["resampler_n_latents"],
        layers=section["resampler_depth"],
        heads=section["resampler_n_heads"],
        mlp_width=4 * width,
        activation="relu",
        attention=dict(head_dim=section["resampler_head_dim"]) | normed,
    )


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    config, vision, perceiver = sections(config)
    # The reference reads the states before its last norm, whose parameters are there all the same.
    tower = clip.vision_fields(vision) | dict(
        stop=vision["num_hidden_layers"], pooling="none", keep_class_token=True
    )
    connector = perceiver_fields(perceiver, vision["embed_dim"])
    decoder = llama.fields(config) | dict(
        memory="attend",
        parts=("cross", "cross_mlp", "self", "mlp"),
        cross_every=config["cross_layer_interval"],
        cross_gate=one_of(config, "alpha_type", {"float": "scalar", "vector": "vector"}),
        cross=dict(qk_norm="rms") if config["qk_layer_norms"] else {},
        extra_vocab=config["additional_vocab_size"],
    )
    eyes = dict(vision=tower) | (dict(connector=connector) if config["use_resampler"] else {})
    return eyes | dict(decoder=decoder)


def rules(config: Config) -> Rules:
    """The mapping table."""
    config, vision, perceiver = sections(config)
    extra, tied = config["additional_vocab_size"] > 0, config["tie_word_embeddings"]
    size = (config["num_hidden_layers"], config["cross_layer_interval"])
    table = [
        *clip.vision_rules("vision", "model.vision_model", vision),
        Rule("decoder/embed/token/embedding", "model.embed_tokens.weight"),
        *for_groups(
            lambda layer: llama.layer_rules(config, layer, "model.layers"),
            lambda layer: gated_rules(config, layer, "model.gated_cross_attn_layers.{}"),
            "decoder/transformer",
            *size,
            counted=True,
        ),
        *norm("decoder/transformer/final_norm", "model.norm", kind="rms"),
    ]
    if config["use_resampler"]:
        table += resampler_rules(perceiver, "connector", "model.perceiver_resampler")
    if extra:
        added = "model.embed_tokens.additional_embedding.weight"
        table.append(Rule("decoder/embed/extra_token/embedding", added))
    if not tied:
        table += dense("decoder/logits", "lm_head", bias=False)
    if extra and not tied:
        table += dense("decoder/extra_logits", "lm_head.additional_fc", bias=False)
    return table


def gated_rules(config: Config, ours: str, theirs: str) -> Rules:
    """A gated cross-attention layer: attention, MLP, and a gate for each."""
    gate = reshaped((1, 1, 1), (1,)) if config["alpha_type"] == "float" else AS_IT_IS
    table = [
        *norm(f"{ours}/cross_norm", f"{theirs}.input_layernorm", kind="rms"),
        *attention(f"{ours}/cross_attention", f"{theirs}.cross_attn", PROJECTIONS, bias=False),
        Rule(f"{ours}/cross_gate", f"{theirs}.alpha_cross_attn", gate),
        *norm(f"{ours}/cross_mlp_norm", f"{theirs}.post_attention_layernorm", kind="rms"),
        Rule(f"{ours}/cross_mlp_gate", f"{theirs}.alpha_dense", gate),
    ]
    for name in ("gate", "up", "down"):
        table += dense(f"{ours}/cross_mlp/{name}", f"{theirs}.mlp.{name}_proj", bias=False)
    if config["qk_layer_norms"]:
        for mine, name in (("query", "q"), ("key", "k")):
            path = f"{ours}/cross_attention/{mine}_norm"
            table += norm(path, f"{theirs}.cross_attn.{name}_layer_norm", kind="rms")
    return table


def resampler_rules(section: Config, ours: str, theirs: str) -> Rules:
    """The perceiver resampler."""
    layer, block, mlp = (
        f"{ours}/transformer/layers",
        f"{theirs}.blocks.{{}}.0",
        f"{theirs}.blocks.{{}}.1",
    )
    names = ("q_proj", "k_proj", "v_proj", "output_proj")
    table = [
        Rule(f"{ours}/latents", f"{theirs}.latents", BATCHED),
        *norm(f"{layer}/context_norm", f"{block}.context_layer_norm"),
        *norm(f"{layer}/cross_norm", f"{block}.latents_layer_norm"),
        *attention(f"{layer}/cross_attention", block, names, bias=False),
        *norm(f"{layer}/mlp_norm", f"{mlp}.ln"),
        *dense(f"{layer}/mlp/up", f"{mlp}.fc", bias=False),
        *dense(f"{layer}/mlp/down", f"{mlp}.c_proj", bias=False),
        *norm(f"{ours}/transformer/final_norm", f"{theirs}.layer_norm"),
    ]
    if section["qk_layer_norms_perceiver"]:
        for mine, name in (("query", "q"), ("key", "k")):
            table += norm(f"{layer}/cross_attention/{mine}_norm", f"{block}.{name}_layer_norm")
    return table


def read(apply: Any, inputs: Inputs) -> tuple[Features, dict[str, Any]]:
    """All pictures of a text side by side: pixel_values [B, images, 3, H, W]."""
    pixels = inputs["pixel_values"]
    rows = len(pixels)
    visual = apply(nhwc(pixels.reshape(-1, *pixels.shape[2:])), method="encode_image")
    tokens = visual.tokens.reshape(rows, -1, visual.tokens.shape[-1])
    given = decoder_inputs(inputs) | {"image_tokens": visual.tokens}
    return Features(tokens, jnp.ones(tokens.shape[:2], bool)), given


def seeing(call: Call) -> Call:
    """A call in which a token sees the pictures named by image_attention_mask [B, T, images]."""

    def run(apply: Callable, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
        shown = inputs["image_attention_mask"] != 0

        def masked(*args: Any, **given: Any) -> Any:
            if given.get("method") == "decode" and args[1] is not None:
                tokens = args[1].tokens.shape[1] // shown.shape[2]
                given = {**given, "sees": jnp.repeat(shown, tokens, axis=2)}
            return apply(*args, **given)

        return call(masked, inputs, flags)

    return run


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and two words."""
    return caption_example(sections(config)[1]["image_size"])


def ignored(config: Config) -> tuple[str, ...]:
    """Buffers, and the output layers where they are the embeddings."""
    buffers = (r".*\.position_ids", r".*\.rotary_emb\.inv_freq")
    heads = (r"lm_head\.weight", r"lm_head\.additional_fc\.weight")
    return (*buffers, *heads) if sections(config)[0]["tie_word_embeddings"] else buffers


def tasks(config: Config) -> dict[str, Any]:
    """Captions and answers, by the prompts that IDEFICS was shown with."""
    frame = "{<fake_token_around_image>}"
    picture = f"{frame}{{<image>}}{frame}"
    told = "Instruction: Provide an answer to the question. Use the image to answer.\n"
    found = writing_tasks(f"{{bos}}{picture}{{prompt}}", question_length=96)
    found["vqa_generation"]["template"] = f"{{bos}}{told}{picture}Question: {{prompt}} Answer:"
    return found


IDEFICS = Family(
    model,
    rules,
    example,
    calls={name: seeing(call) for name, call in language(read).items()},
    ignored=ignored,
    tasks=tasks,
    image_word="<image>",
)
