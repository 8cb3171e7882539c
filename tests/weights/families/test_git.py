"""GIT folders."""

import numpy as np
import pytest
from transformers import GitConfig, GitForCausalLM

from tests.weights import parity
from vlm_jax.weights.pretrained import count

CASES = {
    "a picture": (
        dict(vocab_size=40, hidden_size=24, num_attention_heads=2, intermediate_size=20)
        | dict(num_hidden_layers=3, max_position_embeddings=9),
        dict(hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=1)
        | dict(image_size=32, patch_size=16, hidden_act="gelu"),
        (2, 3, 32, 32),
    ),
    "three frames, tied": (
        dict(vocab_size=33, hidden_size=16, num_attention_heads=8, intermediate_size=36)
        | dict(num_hidden_layers=1, max_position_embeddings=12, hidden_act="relu")
        | dict(layer_norm_eps=1e-3, tie_word_embeddings=True, num_image_with_embedding=4),
        dict(hidden_size=20, num_attention_heads=5, intermediate_size=12, num_hidden_layers=3)
        | dict(image_size=24, patch_size=8, layer_norm_eps=1e-4),
        (2, 3, 3, 24, 24),
    ),
    "six frames": (
        dict(vocab_size=29, hidden_size=12, num_attention_heads=3, intermediate_size=16)
        | dict(num_hidden_layers=2, max_position_embeddings=10, num_image_with_embedding=6),
        dict(hidden_size=8, num_attention_heads=2, intermediate_size=20, num_hidden_layers=1)
        | dict(image_size=20, patch_size=10),
        (2, 6, 3, 20, 20),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_git(case, tmp_path):
    config, vision, shape = CASES[case]
    tokens = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = parity.randomise(GitForCausalLM(GitConfig(vision_config=vision, **config, **tokens)))
    mask = np.ones((2, 7), np.int64)
    mask[1, 5:] = 0
    ids = parity.tokens(2, 7, config["vocab_size"])
    inputs = dict(pixel_values=parity.pixels(*shape), input_ids=ids, attention_mask=mask)

    def ask(model, given):
        return {"logits": model(**given).logits[:, -7:]}

    writes = dict(pixel_values=inputs["pixel_values"], input_ids=ids[:, :3])
    parity.check(model, inputs, tmp_path, theirs=ask, writes=writes, where=dict(logits=mask))


TOWER = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
TOWER |= dict(intermediate_size=4096, patch_size=14, image_size=224)
COUNTS = {
    "base": ({}, 176_619_066),
    "base, six frames": (dict(num_image_with_embedding=6), 176_623_674),
    "large": (dict(vision_config=TOWER), 394_196_026),
}


@pytest.mark.parametrize("label", COUNTS)
def test_published_sizes(label):
    config, expected = COUNTS[label]
    assert count(dict(model_type="git") | config) == expected
