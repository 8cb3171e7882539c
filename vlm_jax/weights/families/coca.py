"""CoCa (arXiv:2205.01917) as open_clip trains and keeps it: a model_cfg with a multimodal_cfg."""

from typing import Any

from vlm_jax.decoders import coca
from vlm_jax.weights.calls import (
    Inputs,
    language,
    nhwc,
    observed,
    read_picture,
    text_inputs,
    with_tokens,
)
from vlm_jax.weights.families import open_clip
from vlm_jax.weights.families.open_clip import named, stack_fields, stack_rules
from vlm_jax.weights.family import (
    TWO_TOKENS,
    TWO_WORDS,
    Config,
    Family,
    Shapes,
    one_of,
    picture,
    require,
    square,
)
from vlm_jax.weights.rules import Rule, Rules, fused_attention, norm, reshaped

DECODER: dict[str, Any] = dict(
    open_clip.TEXT, context_length=77, decoder_parts="released", ls_init_value=None
)
"""What a multimodal_cfg that leaves a key out means by it. decoder_parts is ours: "paper" for one
MLP per layer.
"""
PARTS = {"released": coca.RELEASED, "paper": coca.PAPER}
POOLINGS = {"tok": "first", "avg": "mean"}
EPSILON = 1e-5
"""Of norms that model_cfg says nothing about."""
TOKENS = dict(bos_token_id=49406, eos_token_id=49407, pad_token_id=0)
"""Of CLIP's vocabulary of 49,408."""


def fused_section(config: Config) -> dict[str, Any]:
    """The multimodal section with everything filled in; open_clip reads no mlp_ratio in it."""
    model_cfg, _, _ = open_clip.sections(config)
    section = DECODER | dict(model_cfg["multimodal_cfg"])
    require(section, ls_init_value=None)
    return section | dict(mlp_ratio=4.0, act_kwargs=None, norm_kwargs=None)


def vision_parts(config: Config) -> dict[str, Any]:
    """The image tower and, where there is one, its pooler."""
    model_cfg, _, vision = open_clip.sections(config)
    fields = open_clip.vision_fields(config)
    require(dict(layers=fields["name"]), layers="vit")
    if not one_of(vision, "attentional_pool", {True: True, False: False}):
        return dict(vision=fields)
    if (
        fields["epsilon"] != EPSILON
    ):  # which open_clip gives to the last of the pooler's norms alone
        require(vision, norm_kwargs=None)
    pooler = dict(
        name="attentional_pooler",
        queries=vision["attn_pooler_queries"],
        width=model_cfg["embed_dim"],
        heads=vision["attn_pooler_heads"],
        pooling=one_of(vision, "pool_type", POOLINGS),
        epsilon=EPSILON,
    )
    tower = fields | dict(final_norm=False, pooling="none", keep_class_token=True)
    return dict(vision=tower, connector=pooler)


def model(config: Config) -> dict[str, Any]:
    """open_clip_config.json as config.model."""
    model_cfg, text, _ = open_clip.sections(config)
    require(text, embed_cls=True, no_causal_mask=False, pad_id=0)
    require(text, proj_type="linear")
    fused = fused_section(config)
    own = stack_fields(text, model_cfg["quick_gelu"], text["heads"])
    other = stack_fields(fused, model_cfg["quick_gelu"], fused["heads"])
    require(dict(multimodal_width=other["width"]), multimodal_width=own["width"])
    # open_clip gives these two to the text tower, and not to the layers above it.
    for field, key in (("epsilon", "norm_kwargs"), ("activation", "act_kwargs")):
        if own[field] != other[field]:
            require(text, **{key: None})
    return vision_parts(config) | dict(
        decoder=dict(
            name="coca",
            vocab=text["vocab_size"],
            max_length=text["context_length"],
            fused_layers=other["layers"],
            fused_heads=other["heads"],
            fused_mlp_width=other["mlp_width"],
            parts=one_of(fused, "decoder_parts", PARTS),
            **own,
        ),
        contrast=open_clip.contrast_fields(config),
    )


def pooler_rules(config: Config) -> Rules:
    """The image tower's pooler. Its queries, keys and values are one tensor if of equal widths."""
    model_cfg, _, vision = open_clip.sections(config)
    ours, theirs = "connector/attention", "visual.attn_pool.attn"
    found = [
        Rule("connector/query", "visual.attn_pool.query"),
        *norm("connector/query_norm", "visual.attn_pool.ln_q"),
        *norm("connector/context_norm", "visual.attn_pool.ln_k"),
        *norm("connector/norm", "visual.ln_post"),
    ]
    fused = fused_attention(
        ours, f"{theirs}.in_proj_weight", f"{theirs}.in_proj_bias", f"{theirs}.out_proj"
    )
    if model_cfg["embed_dim"] == vision["width"]:
        return found + fused
    for name in ("query", "key", "value"):
        weight = f"{theirs}.{name[0]}_proj_weight"
        found.append(Rule(f"{ours}/{name}/kernel", weight, fused[0].form))
    return found + fused[1:]


def rules(config: Config) -> Rules:
    """The mapping table."""
    _, text, vision = open_clip.sections(config)
    fused, width = fused_section(config), text["width"]
    pooled = vision["attentional_pool"]
    layers = "decoder/fused/layers"
    cross = stack_rules(layers, "text_decoder.cross_attn", "cross", "cross_mlp")
    return [
        *open_clip.vit_rules(config, post_norm=not pooled),
        *(pooler_rules(config) if pooled else []),
        Rule("decoder/embed/token/embedding", "text.token_embedding.weight"),
        Rule("decoder/embed/position", "text.positional_embedding"),
        Rule("decoder/class_token", "text.cls_emb", reshaped((width,), (width,))),
        *stack_rules("decoder/unimodal/layers", "text.transformer.resblocks"),
        *norm("decoder/text_norm", "text.ln_final"),
        *_single(stack_rules(layers, "text_decoder.resblocks"), cross, fused),
        *norm(f"{layers}/context_norm", "text_decoder.cross_attn.{}.ln_1_kv"),
        *norm("decoder/fused/final_norm", "text_decoder.ln_final"),
        Rule("decoder/logits/kernel", "text_decoder.text_projection"),
        *open_clip.contrast_rules(config, "text."),
    ]


def _single(own: Rules, cross: Rules, fused: Config) -> Rules:
    """The blocks' rules; in the paper's, the MLP is the one after cross-attention."""
    if fused["decoder_parts"] == "released":
        return own + cross
    kept = [rule for rule in own if ".mlp." not in rule.theirs and ".ln_2." not in rule.theirs]
    return kept + [_renamed(rule) for rule in cross]


def _renamed(rule: Rule) -> Rule:
    ours = tuple(path.replace("cross_mlp", "mlp") for path in rule.paths)
    return Rule(ours, rule.theirs, rule.form, rule.layers, rule.axis, rule.sizes)


def settled(config: Config, shapes: Shapes) -> Config:
    """What the scalars look like, and the special tokens of the usual vocabulary."""
    known = dict(open_clip.settled(config, shapes))
    usual = open_clip.sections(known)[1]["vocab_size"] == TOKENS["eos_token_id"] + 1
    return (TOKENS | known) if usual else known


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture, a text to compare and one to predict."""
    size = square(open_clip.sections(config)[2], "image_size")
    batch = {"image": picture(size), "words": TWO_TOKENS, "contrast": TWO_WORDS}
    return batch, {"words": "generate", "contrast": "contrast"}


STATES = ("decoder", "fused")


def forward(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """Embeddings, their products and the towers' last states; logits and tokens of all words but
    the last, which predicts none.

    flags: output_labels=False for those of all. Token 0 is padding.
    """
    given = named(inputs)
    ids = given["input_ids"]
    texts = text_inputs({"attention_mask": ids != 0} | given)
    visual = apply(nhwc(given["pixel_values"]), method="encode_image")
    kept = ids.shape[1] - (1 if flags.get("output_labels", True) else 0)
    mask = texts["text_mask"][:, :kept]
    read = dict(mask=mask, method="decode")
    found, tokens = observed(apply, STATES, ids[:, :kept], visual, **read)
    return with_tokens(apply, visual, texts) | {"logits": found[0], "tokens": tokens}


USUAL: dict[str, Any] = dict(generation_type="beam_search", seq_len=30, min_seq_len=5)
USUAL |= dict(max_seq_len=77, top_k=1, top_p=0.1, num_beams=6, num_beam_groups=3)
USUAL |= dict(fixed_output_length=False, temperature=1.0)
"""What open_clip's generate means by a flag that is left out."""

TELLING = ("generation_type", "seq_len", "min_seq_len", "max_seq_len", "sot_token_id")
TELLING += ("fixed_output_length",)
"""Flags that only open_clip's generate has."""


def searched(flags: Config) -> dict[str, Any]:
    """open_clip's flags as those of `weights.generation`, where there are any of its own: the
    likeliest word each time, generation_type="top_k" with top_k=1. ValueError for another way.
    """
    given = dict(flags)
    if not set(TELLING) & set(given):
        return given
    told = USUAL | given
    length, fewest = int(told["seq_len"]), int(told["min_seq_len"])
    if told["generation_type"] != "top_k":
        raise ValueError(
            f"generate: generation_type={told['generation_type']!r} is not supported (open_clip's "
            "beams are those of groups, its top_p draws): use 'top_k' with top_k=1"
        )
    if told["top_k"] != 1:
        raise ValueError(f"generate: top_k={told['top_k']!r} draws words, only top_k=1 does not")
    for name, wrong in (
        ("min_seq_len", fewest >= length),
        ("max_seq_len", told["max_seq_len"] < length),
    ):
        if wrong:
            raise ValueError(
                f"generate: {name}={told[name]} is not supported with seq_len={length}"
            )
    kept = {name: x for name, x in given.items() if name not in (*USUAL, *TELLING)}
    start, end = given.get("sot_token_id"), kept.get("eos_token_id")
    end = TOKENS["eos_token_id"] if end is None else end
    start = kept.get("bos_token_id", TOKENS["bos_token_id"]) if start is None else start
    special = dict(bos_token_id=start, eos_token_id=end, forced_eos_token_id=end)
    special["pad_token_id"] = kept.get("pad_token_id", 0)
    return kept | special | dict(max_length=length, min_length=fewest)


def generate(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """tokens of what is written about pictures; flags of either reference, see `searched`."""
    write = language(lambda apply, inputs: read_picture(apply, named(inputs)))["generate"]
    return write(apply, inputs, searched(flags))


def tasks(config: Config) -> dict[str, Any]:
    """Retrieval and captioning with texts of the trained length."""
    length = open_clip.sections(config)[1]["context_length"]
    return {"retrieval": dict(length=length), "captioning": dict(length=length)}


COCA = Family(
    model,
    rules,
    example,
    calls={
        "forward": forward,
        "contrast": open_clip.contrast,
        "generate": generate,
    },
    ignored=open_clip.OPEN_CLIP.ignored,
    tasks=tasks,
    settle=settled,
    files=open_clip.FILES,
)
