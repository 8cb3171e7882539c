"""T5 and Flan-T5 folders."""

import json

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from tests.weights import parity
from vlm_jax.weights.families import t5
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count, read_folder

SMALL = dict(vocab_size=50, decoder_start_token_id=0)
CASES = {
    "tied, plain": dict(d_model=12, d_kv=8, d_ff=20, num_layers=2, num_heads=3)
    | dict(relative_attention_num_buckets=8, relative_attention_max_distance=20),
    "unscaled, gated": dict(d_model=16, d_kv=4, d_ff=28, num_layers=3, num_decoder_layers=2)
    | dict(num_heads=5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    | dict(relative_attention_num_buckets=6, layer_norm_epsilon=1e-3),
    "own output layer": dict(d_model=12, d_kv=6, d_ff=16, num_layers=2, num_heads=2)
    | dict(feed_forward_proj="gated-silu", tie_word_embeddings=False),
}
BASE = dict(d_model=768, d_ff=2048, num_layers=12, num_heads=12, feed_forward_proj="gated-gelu")
COUNTS = {
    "T5 1.1 base as built": (BASE, 222_903_552),
    "Flan-T5 base": (BASE | dict(tie_word_embeddings=False), 247_577_856),
}


def network(case: str) -> T5ForConditionalGeneration:
    model = parity.randomise(T5ForConditionalGeneration(T5Config(**SMALL, **CASES[case])))
    if case == "own output layer":
        untie(model)
    return model


def untie(model: T5ForConditionalGeneration) -> None:
    noise = torch.randn(model.shared.weight.shape, generator=torch.Generator().manual_seed(1))
    model.lm_head.weight = torch.nn.Parameter(0.3 * noise)


def inputs_of() -> dict[str, np.ndarray]:
    mask, decoder_mask = np.ones((2, 11), np.int64), np.ones((2, 7), np.int64)
    mask[1, 8:] = 0
    decoder_mask[0, 5:] = 0
    return dict(
        input_ids=parity.tokens(2, 11, 50),
        attention_mask=mask,
        decoder_input_ids=parity.tokens(2, 7, 50, seed=1),
        decoder_attention_mask=decoder_mask,
    )


@pytest.mark.parametrize("case", CASES)
def test_t5(case, tmp_path):
    inputs = inputs_of()
    read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    where = {"logits": inputs["decoder_attention_mask"]}
    parity.check(network(case), inputs, tmp_path, where=where, writes=read)


def test_config_of_the_hub_and_an_own_output_layer(tmp_path):
    """What published Flan-T5 folders say, and the copies that they hold."""
    model = network("own output layer")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | dict(tie_word_embeddings=False)
    for key in ("scale_decoder_outputs", "is_gated_act", "dense_act_fn"):
        config.pop(key)
    path.write_text(json.dumps(config))
    inputs = inputs_of()
    reference = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    expected = parity.outputs(reference, inputs, lambda m, given: m(**given), ("logits",))
    where = {"logits": inputs["decoder_attention_mask"]}
    loaded = read_folder(tmp_path)
    parity.compare(parity.run(loaded, "forward", inputs), expected, 1e-5, where)
    kernel = loaded.variables["params"]["decoder"]["logits"]["kernel"]
    np.testing.assert_array_equal(kernel.T, model.lm_head.weight.detach().numpy())


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    config, expected = COUNTS[label]
    assert count(dict(model_type="t5") | config) == expected


def test_unsupported_values_are_named():
    with pytest.raises(WeightsError, match="feed_forward_proj='double-gelu'"):
        t5.model(dict(feed_forward_proj="double-gelu"))
    with pytest.raises(WeightsError, match="dense_act_fn='xielu'"):
        t5.model(dict(feed_forward_proj="gated-xielu"))
