"""Calls of networks that understand texts, or images and texts together, in the reference's terms.

They go on from `weights.calls`: arguments under the reference's names in, its outputs' names out.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, nhwc, text_inputs
from vlm_jax.weights.family import Call

NAMES = {"tokens": "tokens", "pooled": "pooled", "logits": "logits"}
HEADS = {"word_logits": "logits", "match_logits": "score"}
"""Our names of outputs and the reference's."""


def typed_inputs(inputs: Inputs) -> dict[str, Any]:
    """`text_inputs`, and token_type_ids where they are given."""
    types = inputs.get("token_type_ids")
    return text_inputs(inputs) | ({} if types is None else {"text_types": types})


def named(found: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of `VisionLanguageModel.understand` by the reference's names, of words before
    those of classes.
    """
    return {theirs: found[ours] for ours, theirs in (NAMES | HEADS).items() if ours in found}


def has(apply: Any, part: str) -> bool:
    """Whether the model has a part, such as "decoder"."""
    return apply(method=lambda model: getattr(model, part) is not None)


def see(apply: Any, inputs: Inputs) -> Features | None:
    """The image's features, or None without an image."""
    if "pixel_values" not in inputs:
        return None
    return apply(nhwc(inputs["pixel_values"]), method="encode_image")


def normed_again(apply: Any, seen: Features) -> Array:
    """[B, C], pooler_output of the towers of BLIP and BLIP-2: the class token of their last states,
    with the norm that made them once more.
    """

    def norm(network: Any, x: Array) -> Array:
        tower = network.vision
        last = tower.variables["params"]["transformer"]["final_norm"]
        normal = jax.nn.standardize(x, epsilon=tower.epsilon)
        return normal * last["scale"][None] + last["bias"][None]

    return apply(seen.tokens[:, 0], method=norm)


def text_first(
    found: Mapping[str, Any], length: int, names: tuple[str, ...] = ("tokens", "logits")
) -> dict[str, Any]:
    """Outputs of ours whose last `length` tokens are the text's, with the text in front.

    names: the outputs that have a row for every token; those without a token axis stay.
    """
    moved = {name: found[name] for name in names if name in found and found[name].ndim == 3}
    moved = {
        name: jnp.concatenate([x[:, -length:], x[:, :-length]], axis=1) for name, x in moved.items()
    }
    return dict(found) | moved


def require_flag(flags: Mapping, name: str, value: Any) -> None:
    """ValueError for a flag that is given with another value than the one a call stands for."""
    if flags.get(name, value) != value:
        raise ValueError(f"this call is what {name}={value!r} gives, not {flags[name]!r}")


def match(forward: Call) -> Call:
    """The call "match" of a network whose `forward` is given: the score of image and text, or else
    its logits, under both names.
    """

    def call(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
        found = forward(apply, inputs, flags)
        score = found["score"] if "score" in found else found["logits"]
        return found | {"score": score, "logits": score}

    return call


def understand(apply: Any, inputs: Inputs, flags: Mapping) -> dict[str, Any]:
    """Tokens, pooled, logits and score, as far as the network has them."""
    visual = see(apply, inputs)
    return named(apply(visual, typed_inputs(inputs), method="understand"))
