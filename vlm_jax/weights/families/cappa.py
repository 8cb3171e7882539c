"""Cap and CapPa (arXiv:2306.07915), image captioners as vision learners, as .npz files of
big_vision.

Shapes tell all but the resolution, as they do in `big_vision`, whose ViT this is, without a head;
config.json may hold img and dec, with the keys of its IMAGE and of DECODER here. Beside the file
lies its SentencePiece model as spiece.model. A text begins with token 0, the padding. A decoder
with one more row than it has words (CapPa) knows a token for words that are guessed all at once.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_jax.weights import calls
from vlm_jax.weights.families import big_vision
from vlm_jax.weights.family import Config, Family, Shapes, caption_example
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.rules import Form, Rule, Rules, reshaped

DECODER: dict[str, Any] = big_vision.STACK | dict(
    layers=6, vocab=32000, length=64, bias=False, parallel=False
)
"""The decoder's sizes. bias: whether its MLPs and the norms of its layers have one, which its
attentions never do. parallel: one more token.
"""
THEIRS, BLOCK = "params/decoder", "EncDecBlock"


def sections(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The image tower and the decoder, with everything filled in."""
    image = big_vision.IMAGE | dict(pool="gap") | dict(config.get("img") or {})
    return image, DECODER | dict(config.get("dec") or {})


def model(config: Config) -> dict[str, Any]:
    """The config as config.model."""
    image, decoder = sections(config)
    writer: dict[str, Any] = dict(
        name="causal_lm",
        memory="attend",
        vocab=decoder["vocab"],
        max_length=decoder["length"],
        parallel=decoder["parallel"],
        tied=False,
        **big_vision.stack_fields(decoder),
    )
    if decoder["bias"]:
        unbiased = dict(bias=False, out_bias=False)
        writer |= dict(attention=unbiased, cross=unbiased)
    else:
        writer |= dict(norm="layer_unbiased", final_norm="layer", bias=False)
    return dict(vision=big_vision.vision_fields(image) | dict(pooling="none"), decoder=writer)


def second(rule: Rule) -> Rule:
    """The same where all layers are in one tensor, along its second axis."""
    form = rule.form
    return replace(
        rule,
        form=Form(
            lambda x: form.read(np.moveaxis(x, 1, 0)), lambda x: np.moveaxis(form.write(x), 0, 1)
        ),
    )


def layer_rules(decoder: Config) -> Rules:
    """The decoder's layers."""
    ours = "decoder/transformer/layers"
    block = f"{THEIRS}/{BLOCK}" + ("" if decoder["scan"] else "{}")
    found = [
        *big_vision.norm(f"{ours}/self_norm", f"{block}/LayerNorm1"),
        *big_vision.norm(f"{ours}/cross_norm", f"{block}/LayerNorm2"),
        *big_vision.norm(f"{ours}/mlp_norm", f"{block}/LayerNorm3"),
        *big_vision.dense(f"{ours}/mlp/up", f"{block}/MLP/Dense_0"),
        *big_vision.dense(f"{ours}/mlp/down", f"{block}/MLP/Dense_1"),
    ]
    found = [rule for rule in found if decoder["bias"] or not rule.theirs.endswith("/bias")]
    for kind, theirs in (("self", "SelfAttn"), ("cross", "CrossAttn")):
        names = f"{ours}/{kind}_attention", f"{block}/{theirs}"
        found += big_vision.attention_rules(*names, decoder["heads"], bias=False)
    return [second(rule) for rule in found] if decoder["scan"] else found


def rules(config: Config) -> Rules:
    """The mapping table."""
    image, decoder = sections(config)
    table = reshaped((-1, decoder["width"]), (1, -1, decoder["width"]))
    words = ("decoder/embed/token/embedding",)
    more = ("decoder/embed/extra_token/embedding",) if decoder["parallel"] else ()
    sizes = (decoder["vocab"], *[1 for _ in more])
    return [
        *big_vision.image_rules("params/encoder", image),
        Rule(words + more, f"{THEIRS}/EmbedTargets/embedding", sizes=sizes),
        Rule("decoder/embed/position", "params/pos_embedding_decoder", table),
        *layer_rules(decoder),
        *big_vision.norm("decoder/transformer/final_norm", f"{THEIRS}/LayerNorm"),
        *big_vision.dense("decoder/logits", f"{THEIRS}/LogitsDense"),
    ]


def settled(config: Config, shapes: Shapes) -> Config:
    """What the shapes tell, over what config.json says."""
    known = big_vision.renamed(shapes)
    image = big_vision.image_sizes(big_vision.below(known, "params/encoder/"))
    try:
        decoder = _sizes(big_vision.below(known, f"{THEIRS}/"))
        decoder["length"] = known["params/pos_embedding_decoder"][-2]
    except KeyError as error:
        raise WeightsError(f"no tensor {error.args[0]}: this is no .npz of CapPa") from None
    found = dict(img=image | dict(config.get("img") or {}))
    return dict(config) | found | dict(dec=decoder | dict(config.get("dec") or {}))


def _sizes(shapes: Shapes) -> dict[str, Any]:
    scan = f"{BLOCK}/LayerNorm1/scale" in shapes
    block = BLOCK if scan else f"{BLOCK}0"
    rows, width = shapes["EmbedTargets/embedding"]
    vocab = shapes["LogitsDense/bias"][-1]
    count = len({name.split("/")[0] for name in shapes if name.startswith(BLOCK)})
    return dict(
        width=width,
        layers=shapes[f"{block}/LayerNorm1/scale"][1] if scan else count,
        heads=shapes[f"{block}/SelfAttn/query/kernel"][-2],
        mlp_width=shapes[f"{block}/MLP/Dense_0/kernel"][-1],
        vocab=vocab,
        bias=f"{block}/LayerNorm1/bias" in shapes,
        parallel=rows > vocab,
        scan=scan,
    )


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """A picture and a text."""
    return caption_example(big_vision.resolution(sections(config)[0]))


def tasks(config: Config) -> dict[str, Any]:
    """Captions of the trained length, from the token that begins them."""
    return {"captioning": dict(length=sections(config)[1]["length"], template="{0}{prompt}")}


def read(apply: Any, inputs: calls.Inputs) -> tuple[Any, dict[str, Any]]:
    """The picture, image [B, H, W, 3] in [-1, 1] or pixel_values [B, 3, H, W], and the text, text
    or input_ids i32[B, T], each token behind the one before it.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None:
        pixels = jnp.moveaxis(inputs["image"], -1, 1)
    words = inputs["input_ids"] if "input_ids" in inputs else inputs["text"]
    shifted = jnp.pad(words, ((0, 0), (1, 0)))[:, :-1]
    return calls.read_picture(apply, {"pixel_values": pixels, "input_ids": shifted})


CAPPA = Family(
    model,
    rules,
    example,
    calls={"forward": calls.language(read)["forward"]},
    renames=big_vision.RENAMES,
    tasks=tasks,
    settle=settled,
    files=big_vision.BIG_VISION.files,
    pictures=big_vision.pictures,
)
