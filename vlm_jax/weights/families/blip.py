"""BLIP (arXiv:2201.12086): `BlipForConditionalGeneration`, `BlipForQuestionAnswering` and
`BlipForImageTextRetrieval` folders.

Its text networks are BERTs that look at the image between self-attention and MLP of every layer.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vlm_jax.types import Features
from vlm_jax.weights import calls
from vlm_jax.weights.families import bert, clip
from vlm_jax.weights.families.git import decoder_rules
from vlm_jax.weights.family import (
    TWO_TOKENS,
    TWO_WORDS,
    Config,
    Family,
    Shapes,
    picture,
    require,
    square,
)
from vlm_jax.weights.fused_calls import has, named, normed_again, require_flag, see
from vlm_jax.weights.rules import Rule, Rules, dense, fused_attention, norm, patches, reshaped

TEXT: dict[str, Any] = dict(
    vocab_size=30524,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=8,
    max_position_embeddings=512,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)
VISION: dict[str, Any] = clip.VISION | dict(image_size=384, patch_size=16, hidden_act="gelu")
"""What a config.json that leaves a key out means by it."""

TOKENS = dict(bos_token_id=30522, eos_token_id=2, pad_token_id=0, sep_token_id=102)
CAPTION, ANSWER, RETRIEVAL = (
    "BlipForConditionalGeneration",
    "BlipForQuestionAnswering",
    "BlipForImageTextRetrieval",
)


def settled(config: Config, shapes: Shapes) -> Config:
    """The config with the tokens that begin, end and fill texts, and separate them."""
    return dict(config) | dict(text_config=TOKENS | dict(config.get("text_config") or {}))


def kind(config: Config) -> str:
    """Which of the three classes a folder was saved from."""
    return bert.architecture(config, {k: k for k in (CAPTION, ANSWER, RETRIEVAL)}, CAPTION)


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text and vision sections with everything filled in."""
    text = TEXT | dict(config.get("text_config") or {})
    require(config, tie_word_embeddings=True)
    require(text, tie_word_embeddings=True, is_decoder=True, position_embedding_type="absolute")
    return text, VISION | dict(config.get("vision_config") or {})


def vision_fields(section: Config) -> dict[str, Any]:
    """A ViT whose class token is among its tokens."""
    sizes = dict(patch=square(section, "patch_size"), image_size=square(section, "image_size"))
    own = dict(name="vit", keep_class_token=True, resize="bicubic")
    return own | sizes | clip.stack_fields(section)


def vision_rules(ours: str, theirs: str, section: Config) -> Rules:
    """The vision tower."""
    width, layer = section["hidden_size"], f"{theirs}.encoder.layers.{{}}"
    form = patches(square(section, "patch_size"))
    flat = reshaped((-1, width), (1, -1, width))
    stack = f"{ours}/transformer/layers"
    qkv = f"{layer}.self_attn.qkv"
    names = (f"{qkv}.weight", f"{qkv}.bias", f"{layer}.self_attn.projection")
    return [
        *dense(f"{ours}/patch_embedding", f"{theirs}.embeddings.patch_embedding", form=form),
        Rule(f"{ours}/position", f"{theirs}.embeddings.position_embedding", flat),
        Rule(f"{ours}/class_token", f"{theirs}.embeddings.class_embedding"),
        *fused_attention(f"{stack}/self_attention", *names),
        *norm(f"{stack}/self_norm", f"{layer}.layer_norm1"),
        *norm(f"{stack}/mlp_norm", f"{layer}.layer_norm2"),
        *dense(f"{stack}/mlp/up", f"{layer}.mlp.fc1"),
        *dense(f"{stack}/mlp/down", f"{layer}.mlp.fc2"),
        *norm(f"{ours}/transformer/final_norm", f"{theirs}.post_layernorm"),
    ]


def text_fields(text: Config) -> dict[str, Any]:
    """What encoder and decoder of texts have in common."""
    return bert.stack_fields(text) | dict(
        vocab=text["vocab_size"],
        max_length=text["max_position_embeddings"],
        embedding_norm=True,
        parts=("self", "cross", "mlp"),
    )


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model."""
    text, vision = sections(config)
    wanted, fields = kind(config), text_fields(text)
    parts: dict[str, Any] = dict(vision=vision_fields(vision))
    if wanted != CAPTION:
        parts["text"] = dict(name="transformer") | fields
    if wanted == RETRIEVAL:
        size = config.get("image_text_hidden_size", 256)
        parts["contrast"] = dict(size=size, scale=None, project_bias=True)
        return parts | dict(classify=dict(classes=2))
    own = dict(name="causal_lm", memory="attend", logits_transform=True, logits_bias=True)
    return parts | dict(decoder=own | fields)


def rules(config: Config) -> Rules:
    """The mapping table."""
    text = "text_encoder"
    table = vision_rules("vision", "vision_model", sections(config)[1])
    if kind(config) != CAPTION:
        table += [
            *bert.embedding_rules("text", f"{text}.embeddings", types=False),
            *bert.layer_rules("text/transformer/layers", f"{text}.encoder.layer", crossed=True),
        ]
    if kind(config) == RETRIEVAL:
        heads = {"contrast_head/image": "vision_proj", "contrast_head/text": "text_proj"}
        heads |= {"classify_head/out": "itm_head"}
        return table + [rule for name in heads for rule in dense(name, heads[name])]
    body, head = "text_decoder.bert", "text_decoder.cls.predictions"
    return [
        *table,
        *decoder_rules("decoder", f"{body}.embeddings", f"{body}.encoder.layer", crossed=True),
        *dense("decoder/logits_transform", f"{head}.transform.dense"),
        *norm("decoder/logits_norm", f"{head}.transform.LayerNorm"),
        Rule("decoder/logits_bias", f"{head}.bias"),
    ]


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and what each class reads with it."""
    image = {"image": picture(square(sections(config)[1], "image_size"))}
    if kind(config) == CAPTION:
        return image | {"words": TWO_TOKENS}, {"words": "generate"}
    if kind(config) == ANSWER:
        return image | {"answer": TWO_TOKENS | TWO_WORDS}, {"answer": "generate"}
    texts = {"match": TWO_WORDS, "contrast": TWO_WORDS}
    return image | texts, {"match": "understand", "contrast": "contrast"}


def tasks(config: Config) -> dict[str, Any]:
    """Captions after the trained prompt, answers, or retrieval.

    Retrieval reads a text with an image from [ENC] on, as the authors trained it: the token behind
    the one that begins captions, where the table has it. (The call "match" does as the reference,
    which leaves the text as it is.)
    """
    begins = settled(config, {})["text_config"]["bos_token_id"]
    encode = begins + 1 if begins + 1 < sections(config)[0]["vocab_size"] else None
    start = f"{{{begins}}}"  # by its number: no tokenizer of such a folder knows this token
    asked = dict(question_to="text", template=start)
    shown = dict(prompt="a picture of", template=start + "{prompt}")
    known = {
        CAPTION: {"captioning": shown | dict(length=20)},
        ANSWER: {"vqa_generation": asked | dict(question_length=35, length=10)},
        RETRIEVAL: {"retrieval": dict(length=35, match=dict(start=encode))},
    }
    return known[kind(config)]


def answer_inputs(inputs: calls.Inputs) -> dict[str, Any]:
    """The answer that the decoder reads."""
    names = {"decoder_input_ids": "input_ids", "decoder_attention_mask": "attention_mask"}
    return calls.decoder_inputs(
        {ours: inputs[name] for name, ours in names.items() if name in inputs}
    )


def read(apply: Any, inputs: calls.Inputs) -> tuple[Any, dict[str, Any]]:
    """What the decoder is given: the image and the caption, or the question and the answer.

    An answer sees the question with its padding, as it does in the reference.
    """
    if not has(apply, "text"):
        return calls.read_picture(apply, inputs)
    pixels = calls.nhwc(inputs["pixel_values"])
    memory = apply(pixels, calls.text_inputs(inputs), method="read")
    memory = memory._replace(mask=jnp.ones_like(memory.mask))
    given = answer_inputs(inputs) if "decoder_input_ids" in inputs else {}
    return memory, given | {"text_tokens": memory.tokens}


def forward(apply: Any, inputs: calls.Inputs, flags: Mapping) -> dict[str, Any]:
    """Logits of the caption or of the answer, and states of text and image; the match, where there
    is no decoder. KeyError for an answer's class without an answer.
    """
    if not has(apply, "decoder"):
        return (match if flags.get("use_itm_head", True) else contrast)(apply, inputs, flags)
    if "decoder_input_ids" not in inputs and has(apply, "text"):
        raise KeyError("decoder_input_ids")
    seen = see(apply, inputs)
    found = calls.language(read, padding_counts=True)["forward"](apply, inputs, flags)
    found = {"text_tokens": found["tokens"]} | found
    if seen is None:
        return found
    pooled = dict(pooled=normed_again(apply, seen))
    return found | image_states(seen, found["tokens"]) | pooled


def image_states(seen: Features, text: Any) -> dict[str, Any]:
    """The image's states by all the names that the reference has for them. text: other tokens."""
    image = seen.tokens
    return {"image_tokens": image, "image_embeds": image, "tokens": image, "tokens:text": text}


def match(apply: Any, inputs: calls.Inputs, flags: Mapping) -> dict[str, Any]:
    """Whether image and text belong together: logits f32[B, 2], also called score; text_tokens, the
    text's states with the image (question_embeds), and the image's own.
    """
    require_flag(flags, "use_itm_head", True)
    visual = see(apply, inputs)
    found = named(apply(visual, calls.text_inputs(inputs), method="understand"))
    states = {} if visual is None else image_states(visual, found["tokens"])
    return found | dict(score=found["logits"], text_tokens=found["tokens"]) | states


def contrast(apply: Any, inputs: calls.Inputs, flags: Mapping) -> dict[str, Any]:
    """Embeddings and their products, of each image with each text, which are the score too; and the
    states of both.
    """
    require_flag(flags, "use_itm_head", False)
    found = calls.contrast_and_tokens(apply, inputs, flags)
    return found | dict(score=found["logits_per_image"])


def generate(apply: Any, inputs: calls.Inputs, flags: Mapping) -> dict[str, Any]:
    """A caption, after the prompt if there is one, or an answer.

    As in the reference, the first token becomes the one that begins a caption, and the last token
    of a prompt, which ends it, is left out.
    """
    flags = dict(flags)
    flags |= dict(eos_token_id=flags.pop("sep_token_id", TOKENS["sep_token_id"]))
    first = flags.get("bos_token_id", TOKENS["bos_token_id"])
    start = jnp.full((len(inputs["pixel_values"]), 1), first, jnp.int32)
    if has(apply, "text"):
        memory, _ = read(apply, inputs)
        given = calls.decoder_inputs({"input_ids": start})
    else:
        given = dict(inputs)
        if "input_ids" in given:
            words = jnp.asarray(given["input_ids"])[:, 1:-1]
            given["input_ids"] = jnp.concatenate([start, words], axis=1)
        else:
            given["input_ids"] = start
        if "attention_mask" in given:
            given["attention_mask"] = given["attention_mask"][:, :-1]
        memory, given = read(apply, given)
    found = calls.search(apply, memory, given, flags)
    return {"tokens": calls.after_prompt(given["tokens"], found)}


BLIP = Family(
    model,
    rules,
    example,
    calls={"forward": forward, "generate": generate, "match": match, "contrast": contrast},
    ignored=(r".*\.position_ids", *bert.TIED),
    tasks=tasks,
    settle=settled,
    inner=True,
)
