"""The merge captioner (arXiv:1703.09137) under the names that Keras 3 gives its weights.

config.json: model_type "lstm_merge"; the sizes are those of the tensors. The names are those of a
functional model that makes its layers in this order: a dense layer on image features ("dense"), an
embedding, an LSTM, a dense layer on their sum ("dense_1") and the output layer ("dense_2"). Keras
keeps matrices as (in, out), and an LSTM's gates side by side: input, forget, cell, output.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_jax.types import Features
from vlm_jax.weights.calls import Inputs, decoder_inputs, language
from vlm_jax.weights.family import TWO_TOKENS, Config, Family, Shapes
from vlm_jax.weights.rules import AS_IT_IS, Rule, Rules

DEFAULTS: dict[str, Any] = dict(vocab_size=7579, width=256, features=4096)
"""The sizes of the model trained on Flickr8k, on VGG-16's fc2."""

GATES = "ifgo"
LAYERS = {"image": "dense", "merged": "dense_1", "logits": "dense_2"}


def settle(config: Config, shapes: Shapes) -> Config:
    """The config with the sizes that the tensors have."""
    found = {}
    if len(shapes.get("embedding/embeddings", ())) == 2:
        found |= dict(zip(("vocab_size", "width"), shapes["embedding/embeddings"], strict=True))
    if len(shapes.get("dense/kernel", ())) == 2:
        found["features"] = shapes["dense/kernel"][0]
    return dict(config) | found


def model(config: Config) -> dict[str, Any]:
    """config.json as config.model, for features computed beforehand."""
    config = DEFAULTS | dict(config)
    decoder = dict(name="lstm_merge", vocab=config["vocab_size"], width=config["width"])
    return dict(vision=dict(name="precomputed"), decoder=decoder)


def rules(config: Config) -> Rules:
    """The mapping table."""
    cell = "decoder/lstm/layer_0_forward/lstm"
    side_by_side = lambda kind, part: tuple(f"{cell}/{kind}{gate}/{part}" for gate in GATES)
    table = [
        Rule("decoder/token/embedding", "embedding/embeddings"),
        Rule(side_by_side("i", "kernel"), "lstm/lstm_cell/kernel", axis=1),
        Rule(side_by_side("h", "kernel"), "lstm/lstm_cell/recurrent_kernel", axis=1),
        Rule(side_by_side("h", "bias"), "lstm/lstm_cell/bias"),
    ]
    for mine, theirs in LAYERS.items():
        table.append(Rule(f"decoder/{mine}/kernel", f"{theirs}/kernel", AS_IT_IS))
        table.append(Rule(f"decoder/{mine}/bias", f"{theirs}/bias"))
    return table


def example(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """One feature vector and two words."""
    features = np.zeros((1, (DEFAULTS | dict(config))["features"]), np.float32)
    return {"image": features, "words": TWO_TOKENS}, {"words": "generate"}


def read(apply: Any, inputs: Inputs) -> tuple[Features, dict[str, Any]]:
    """features [B, F] and input_ids [B, T], in which 0 is padding on either side."""
    given = decoder_inputs(inputs)
    given["tokens_mask"] = given["tokens_mask"] & (given["tokens"] != 0)
    return apply(jnp.asarray(inputs["features"], jnp.float32), given, method="read"), given


CALLS = language(read, states=("decoder", "merged"))


def forward(apply: Any, inputs: Inputs, flags: Config) -> dict[str, Any]:
    """logits, and tokens: the states of the last layer before them."""
    found = CALLS["forward"](apply, inputs, flags)
    return found | {"tokens": jnp.maximum(found["tokens"], 0)}


LSTM_MERGE = Family(
    model,
    rules,
    example,
    calls=CALLS | {"forward": forward},
    settle=settle,
    tasks=lambda config: {"captioning": dict(length=36)},
)
