"""The check of a converted checkpoint against recorded outputs."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.weights import parity
from vlm_jax.weights import check

SMALL = dict(vocab_size=60, hidden_size=16, num_attention_heads=4, num_key_value_heads=2)
SMALL |= dict(intermediate_size=24, num_hidden_layers=2, max_position_embeddings=64)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder, and what the reference was given and returned, with padding in one row."""
    folder = tmp_path_factory.mktemp("llama") / "folder"
    model = parity.randomise(LlamaForCausalLM(LlamaConfig(**SMALL, eos_token_id=2, bos_token_id=1)))
    model.save_pretrained(folder)
    ids, mask = parity.tokens(2, 6, 60), np.ones((2, 6), np.int64)
    mask[1, 4:] = 0
    given = parity.tensors_of(dict(input_ids=ids, attention_mask=mask))
    with torch.no_grad():
        logits = model(**given).logits.numpy()
        texts = model.generate(given["input_ids"], max_new_tokens=4, num_beams=2).numpy()
    logits[1, 4:] = 99.0  # masked positions mean nothing
    return folder, {
        "forward.in.input_ids": ids,
        "forward.in.attention_mask": mask,
        "forward.out.logits": logits,
        "generate.in.input_ids": ids,
        "generate.flag.num_beams": np.array(2),
        "generate.flag.max_new_tokens": np.array(4),
        "generate.out.tokens": texts,
    }


def run(recorded, tmp_path, capsys, changes=None, drop=()):
    folder, arrays = recorded
    arrays = {k: v for k, v in (arrays | (changes or {})).items() if k not in drop}
    np.savez(tmp_path / "reference.npz", **arrays)
    code = check.main([str(folder), str(tmp_path / "reference.npz")])
    printed = capsys.readouterr()
    return code, (json.loads(printed.out) if printed.out else None), printed.err


def test_equal_outputs_pass(recorded, tmp_path, capsys):
    code, report, _ = run(recorded, tmp_path, capsys)
    assert code == 0
    assert report["generate.tokens"] == {
        "difference": 0,
        "scale": report["generate.tokens"]["scale"],
        "ok": True,
    }
    assert report["forward.logits"]["difference"] < 1e-5 < report["forward.logits"]["scale"] < 99


def test_a_small_difference_and_a_wrong_token_fail(recorded, tmp_path, capsys):
    logits = recorded[1]["forward.out.logits"].copy()
    logits[0, 2, 3] += 1e-3
    tokens = recorded[1]["generate.out.tokens"].copy()
    tokens[0, -1] = (tokens[0, -1] + 1) % 60
    changes = {"forward.out.logits": logits, "generate.out.tokens": tokens}
    code, report, _ = run(recorded, tmp_path, capsys, changes)
    assert code == 1
    assert not report["forward.logits"]["ok"] and report["generate.tokens"]["difference"] == 1


def test_an_argument_that_is_not_read_is_an_error(recorded, tmp_path, capsys):
    changes = {"forward.in.pixel_mask": np.ones((2, 4, 4)), "forward.in.token_type_ids": np.ones(2)}
    code, _, printed = run(recorded, tmp_path, capsys, changes)
    assert code == 2 and "forward does not read pixel_mask: leave it out" in printed


def test_what_cannot_be_compared_is_an_error(recorded, tmp_path, capsys):
    for changes, drop, message in (
        ({"forward.out.pooled": np.zeros(2)}, (), "forward does not give pooled; it gives logits"),
        (
            {"match.in.input_ids": np.zeros((1, 2), int), "match.out.score": np.zeros(1)},
            (),
            "no call",
        ),
        ({"generate.flag.penalty": np.array(3)}, (), "unknown flag 'penalty'"),
        ({"forward.flag.feature_layer": np.array(-1)}, (), "forward does not read feature_layer"),
        ({"wrong": np.zeros(1)}, (), "is not named"),
        ({}, ("forward.in.input_ids",), "needs the argument 'input_ids'"),
    ):
        code, _, error = run(recorded, tmp_path, capsys, changes, drop)
        assert code == 2 and message in error, error
