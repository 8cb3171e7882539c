"""CLIP as OpenAI and open_clip keep it: open_clip_config.json with its model_cfg, fused queries,
keys and values, vision towers ViT and ModifiedResNet (arXiv:2103.00020, section 2.4).
"""

from typing import Any

from vlm_jax.weights.calls import Inputs, nhwc, text_inputs, with_tokens
from vlm_jax.weights.families.resnet import block_rules
from vlm_jax.weights.family import Config, Family, Shapes, one_of, pair_example, require, square
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import (
    Rule,
    Rules,
    attention,
    batch_norm,
    convolution,
    dense,
    fused_attention,
    norm,
    patches,
    reshaped,
)

TEXT: dict[str, Any] = dict(
    context_length=77,
    vocab_size=49408,
    width=512,
    heads=8,
    layers=12,
    mlp_ratio=4.0,
    eos_id=2,
    no_causal_mask=False,
    pool_type="argmax",
    proj_type="linear",
    act_kwargs=None,
    norm_kwargs=None,
)
VISION: dict[str, Any] = dict(
    layers=12,
    width=768,
    head_width=64,
    mlp_ratio=4.0,
    patch_size=16,
    image_size=224,
    attentional_pool=False,
    attn_pooler_queries=256,
    attn_pooler_heads=8,
    no_ln_pre=False,
    final_ln_after_pool=False,
    pool_type="tok",
    act_kwargs=None,
    norm_kwargs=None,
)
"""What a config that leaves a key out means by it."""

PLAIN: dict[str, Any] = dict(
    ls_init_value=None,
    qk_norm=False,
    scaled_cosine_attn=False,
    scale_heads=False,
    scale_attn_inner=False,
    scale_attn=False,
    scale_fc=False,
    block_type=None,
    timm_model_name=None,
    hf_model_name=None,
    proj_bias=False,
)
"""Variants that are not here."""

TEXT_POOLINGS = {"argmax": "largest", "first": "first", "last": "end", "eos": "first_eos"}
VISION_POOLINGS = {"tok": "cls", "avg": "mean"}
STORED_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers in OpenAI's own files that are no parameters."""


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """model_cfg, its text_cfg and its vision_cfg with everything filled in."""
    model_cfg = config.get("model_cfg")
    if not isinstance(model_cfg, dict):
        raise WeightsError("open_clip_config.json lacks the section model_cfg")
    text = TEXT | dict(model_cfg.get("text_cfg") or {})
    vision = VISION | dict(model_cfg.get("vision_cfg") or {})
    for section in (text, vision):
        plain = dict(block_type="default") if section.get("block_type") == "default" else {}
        require(section, **PLAIN | plain)
    known = dict(quick_gelu=False, custom_text=False, nonscalar_logit_scale=False)
    return known | dict(init_logit_bias=None) | model_cfg, text, vision


def stack_fields(section: Config, quick: bool, heads: int) -> dict[str, Any]:
    """Fields of a Transformer; quick: whether model_cfg asks for OpenAI's GELU."""
    approximate = dict(section["act_kwargs"] or {}).pop("approximate", "none")
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    exact = one_of(dict(approximate=approximate), "approximate", kinds)
    return dict(
        width=section["width"],
        layers=section["layers"],
        heads=heads,
        mlp_width=int(section["width"] * section["mlp_ratio"]),
        activation="quick_gelu" if quick else exact,
        epsilon=dict(section["norm_kwargs"] or {}).get("eps", 1e-5),
    )


def stack_rules(ours: str, theirs: str, part: str = "self", mlp: str = "mlp") -> Rules:
    """Layers of an attention and an MLP each. theirs: without the number."""
    layer = f"{theirs}.{{}}"
    weight, bias, out = (
        f"{layer}.attn.{n}" for n in ("in_proj_weight", "in_proj_bias", "out_proj")
    )
    return [
        *fused_attention(f"{ours}/{part}_attention", weight, bias, out),
        *norm(f"{ours}/{part}_norm", f"{layer}.ln_1"),
        *norm(f"{ours}/{mlp}_norm", f"{layer}.ln_2"),
        *dense(f"{ours}/{mlp}/up", f"{layer}.mlp.c_fc"),
        *dense(f"{ours}/{mlp}/down", f"{layer}.mlp.c_proj"),
    ]


def vision_fields(config: Config) -> dict[str, Any]:
    """The image tower."""
    model_cfg, _, vision = sections(config)
    size = square(vision, "image_size")
    if isinstance(vision["layers"], (list, tuple)):
        return dict(
            name="resnet",
            bottleneck=True,
            stages=tuple(vision["layers"]),
            width=vision["width"],
            stem="deep",
            averaged=True,
            pooling="attention",
            pooling_heads=vision["width"] * 32 // vision["head_width"],
            pooled_width=model_cfg["embed_dim"],
            image_size=size,
        )
    return dict(
        name="vit",
        patch=square(vision, "patch_size"),
        image_size=size,
        resize="bicubic",
        pre_norm=not vision["no_ln_pre"],
        patch_bias=False,
        pooling=one_of(vision, "pool_type", VISION_POOLINGS),
        norm_tokens=not vision["final_ln_after_pool"],
        **stack_fields(vision, model_cfg["quick_gelu"], vision["width"] // vision["head_width"]),
    )


def vit_rules(config: Config, post_norm: bool = True) -> Rules:
    """A ViT. post_norm: whether it normalises its last states itself."""
    _, _, vision = sections(config)
    patch, width = square(vision, "patch_size"), vision["width"]
    first = reshaped((1, 1, width), (width,))
    last = "final_norm" if vision["final_ln_after_pool"] else "transformer/final_norm"
    return [
        Rule("vision/patch_embedding/kernel", "visual.conv1.weight", patches(patch)),
        Rule("vision/position", "visual.positional_embedding"),
        Rule("vision/class_token", "visual.class_embedding", first),
        *([] if vision["no_ln_pre"] else norm("vision/embeddings_norm", "visual.ln_pre")),
        *stack_rules("vision/transformer/layers", "visual.transformer.resblocks"),
        *(norm(f"vision/{last}", "visual.ln_post") if post_norm else []),
    ]


def resnet_rules(stages: Any) -> Rules:
    """A ModifiedResNet."""
    found: Rules = []
    for number in (1, 2, 3):
        found += convolution(f"vision/stem_conv{number}", f"visual.conv{number}")
        found += batch_norm(f"vision/stem_norm{number}", f"visual.bn{number}")
    for stage, blocks in enumerate(stages, 1):
        for block in range(blocks):
            theirs = f"visual.layer{stage}.{block}"
            own = [(f"{theirs}.conv{i}", f"{theirs}.bn{i}") for i in (1, 2, 3)]
            shortcut = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
            found += block_rules(f"vision/stage{stage}_block{block + 1}", 3, own, shortcut)
    names = ("q_proj", "k_proj", "v_proj", "c_proj")
    return [
        *found,
        Rule("vision/pooling/position", "visual.attnpool.positional_embedding"),
        *attention("vision/pooling/attention", "visual.attnpool", names),
    ]


def model(config: Config) -> dict[str, Any]:
    """open_clip_config.json as config.model."""
    model_cfg, text, vision = sections(config)
    require(vision, attentional_pool=False)
    require(text, embed_cls=False)
    return dict(
        vision=vision_fields(config),
        text=dict(
            name="transformer",
            vocab=text["vocab_size"],
            max_length=text["context_length"],
            causal=not text["no_causal_mask"],
            attend_padding=text["no_causal_mask"],
            pooling=one_of(text, "pool_type", TEXT_POOLINGS),
            eos_id=text["eos_id"],
            **stack_fields(text, model_cfg["quick_gelu"], text["heads"]),
        ),
        contrast=contrast_fields(config),
    )


def sides(config: Config) -> tuple[str, ...]:
    """The sides whose projection is not part of the tower."""
    _, text, vision = sections(config)
    projected = one_of(text, "proj_type", {"linear": True, "none": False})
    pooled = isinstance(vision["layers"], (list, tuple))
    return (() if pooled else ("image",)) + (("text",) if projected else ())


def contrast_fields(config: Config) -> dict[str, Any]:
    """The scalars, and the projections."""
    model_cfg, _, _ = sections(config)
    bias = None if model_cfg["init_logit_bias"] is None else float(model_cfg["init_logit_bias"])
    size = model_cfg["embed_dim"]
    return dict(size=size, bias=bias, project=sides(config), max_scale=float("inf"))


def contrast_rules(config: Config, text: str) -> Rules:
    """The same. text: their prefix of the text tower."""
    model_cfg, _, _ = sections(config)
    scalar = reshaped((), (1,) if model_cfg["nonscalar_logit_scale"] else ())
    names = {"image": "visual.proj", "text": f"{text}text_projection"}
    found = [Rule(f"contrast_head/{side}/kernel", names[side]) for side in sides(config)]
    found.append(Rule("contrast_head/logit_scale", "logit_scale", scalar))
    if model_cfg["init_logit_bias"] is not None:
        found.append(Rule("contrast_head/logit_bias", "logit_bias", scalar))
    return found


def rules(config: Config) -> Rules:
    """The mapping table."""
    model_cfg, _, vision = sections(config)
    text = "text." if model_cfg["custom_text"] else ""
    pooled = isinstance(vision["layers"], (list, tuple))
    return [
        *(resnet_rules(vision["layers"]) if pooled else vit_rules(config)),
        Rule("text/embedding/token/embedding", f"{text}token_embedding.weight"),
        Rule("text/embedding/position", f"{text}positional_embedding"),
        *stack_rules("text/transformer/layers", f"{text}transformer.resblocks"),
        *norm("text/transformer/final_norm", f"{text}ln_final"),
        *contrast_rules(config, text),
    ]


def settled(config: Config, shapes: Shapes) -> Config:
    """Whether the text tower has a prefix, and what the scalars look like."""
    known = dict(config.get("model_cfg") or {})
    known["custom_text"] = "text.token_embedding.weight" in shapes
    known["nonscalar_logit_scale"] = shapes.get("logit_scale") == (1,)
    if "logit_bias" in shapes and known.get("init_logit_bias") is None:
        known["init_logit_bias"] = 0.0
    return dict(config) | dict(model_cfg=known)


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One picture and one text."""
    return pair_example(square(sections(config)[2], "image_size")), {"contrast": "contrast"}


def named(inputs: Inputs) -> dict[str, Any]:
    """The inputs by transformers' names, of which open_clip calls two otherwise."""
    return {{"image": "pixel_values", "text": "input_ids"}.get(k, k): v for k, v in inputs.items()}


def contrast(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """Embeddings, their scaled products, and the last states of both towers, those of the image
    without its class token.
    """
    given = named(inputs)
    visual = apply(nhwc(given["pixel_values"]), method="encode_image")
    return with_tokens(apply, visual, text_inputs(given))


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval with texts of the trained length."""
    return {"retrieval": dict(length=sections(config)[1]["context_length"])}


FILES = ("open_clip_config.json", "open_clip_model.safetensors")
OPEN_CLIP = Family(
    model,
    rules,
    example,
    calls={"forward": contrast, "contrast": contrast},
    ignored=(*STORED_SIZES, r".*\.num_batches_tracked", r"(text\.)?attn_mask"),
    tasks=tasks,
    settle=settled,
    files=FILES,
)
