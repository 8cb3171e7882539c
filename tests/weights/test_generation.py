"""The reference's options for writing texts: the ids that its `generate` gives with them."""

import functools
import json

import numpy as np
import pytest
import torch
import transformers

from tests.weights import parity, test_calls
from tests.weights.families import test_blip, test_blip2
from vlm_jax import decode
from vlm_jax.weights.generation import folder_flags, search_of
from vlm_jax.weights.pretrained import read_folder

MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


@functools.lru_cache
def reference(name: str):
    """A network whose greedy text has the tokens that the tests forbid or force."""
    if name == "blip":
        return test_blip.build(transformers.BlipForConditionalGeneration, "one width")
    if name == "blip2":
        return test_blip2.network("OPT")
    return test_calls.build(name, test_calls.CASES[name])


def prompt(name: str) -> dict[str, np.ndarray]:
    ids = parity.tokens(2, 5, 38)
    if name == "blip":
        return dict(pixel_values=parity.pixels(2, 3, 32, 32), input_ids=ids[:, :4])
    if name == "blip2":
        ids = np.concatenate([np.full((2, 4), 49), ids], axis=1)
        return dict(pixel_values=parity.pixels(2, 3, 16, 16), input_ids=ids)
    return dict(input_ids=ids, attention_mask=MASK)


def written(model, inputs, flags):
    with torch.no_grad():
        return model.generate(**parity.tensors_of(inputs), **flags).numpy()


def agree(loaded, model, inputs, flags):
    """The same ids, of which ours may be filled up longer."""
    expected = written(model, inputs, flags)
    found = np.asarray(loaded.call("generate", inputs, flags)["tokens"])
    assert found.shape[1] >= expected.shape[1]
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    return expected


BEAMS = dict(num_beams=3, do_sample=False)
LLAMA, T5 = "LlamaForCausalLM", "T5ForConditionalGeneration"
CASES = [
    (LLAMA, dict(max_length=9)),
    (LLAMA, dict(max_length=9, max_new_tokens=6)),
    (LLAMA, BEAMS | dict(max_length=11, min_length=9, length_penalty=-2.0)),
    (LLAMA, BEAMS | dict(max_new_tokens=5, num_return_sequences=2)),
    (LLAMA, dict(max_new_tokens=5, forced_bos_token_id=7, forced_eos_token_id=2)),
    (LLAMA, dict(max_new_tokens=5, do_sample=True, top_k=1)),
    (T5, dict(max_length=7, min_length=5, forced_bos_token_id=7)),
    (T5, BEAMS | dict(max_length=6, forced_eos_token_id=2)),
    ("blip", dict(max_length=8, min_length=7)),
    ("blip2", dict(max_length=13, min_length=12)),
]


@pytest.mark.parametrize(("name", "flags"), CASES)
def test_options(name, flags, tmp_path):
    model = reference(name)
    model.save_pretrained(tmp_path)
    agree(read_folder(tmp_path), model, prompt(name), flags)


def test_words_that_are_not_to_be_written(tmp_path):
    model, inputs, flags = reference(LLAMA), prompt(LLAMA), dict(max_new_tokens=5)
    model.save_pretrained(tmp_path)
    loaded = read_folder(tmp_path)
    usual = written(model, inputs, flags)[:, 5:]
    first, second = (int(x) for x in (usual[0, 0], usual[1, 1]))
    forbidden = dict(suppress_tokens=[first], bad_words_ids=[[second], [2]])
    found = agree(loaded, model, inputs, flags | forbidden)
    assert not np.isin(found[:, 5:], [first, second]).any()
    assert np.isin(usual, [first, second]).any()


@pytest.mark.parametrize("flags", [{}, BEAMS], ids=str)
def test_words_of_several_tokens_and_beginnings_that_are_not_to_be_written(flags, tmp_path):
    model, inputs = reference(LLAMA), prompt(LLAMA)
    # Of a pad of 0 the reference's beams would fill up by the end.
    flags = flags | dict(max_new_tokens=6, pad_token_id=1)
    model.save_pretrained(tmp_path)
    loaded = read_folder(tmp_path)
    usual = written(model, inputs, flags)[:, 4:].tolist()
    words = [usual[0][:2], usual[0][2:4], usual[1][3:6], [2]]
    found = agree(loaded, model, inputs, flags | dict(bad_words_ids=words))
    assert (found[:, 4:10] != np.array(usual)[:, :6]).any(axis=1).all()
    begun = dict(begin_suppress_tokens=[usual[0][1], usual[1][1]], forced_bos_token_id=5)
    found = agree(loaded, model, inputs, flags | begun)
    assert (found[:, 5] != np.array(usual)[:, 1]).all()


def test_what_follows_a_forced_beginning(tmp_path):
    """Of a stack that writes from one token on, a text begins behind the one that is forced, which
    comes even if it is a bad word.
    """
    model, inputs = reference(T5), prompt(T5)
    model.save_pretrained(tmp_path)
    forced = dict(max_length=7, forced_bos_token_id=7, bad_words_ids=[[7], [9, 9]])
    usual = agree(read_folder(tmp_path), model, inputs, forced)
    begun = forced | dict(begin_suppress_tokens=usual[:, 2].tolist())
    found = agree(read_folder(tmp_path), model, inputs, begun)
    assert (usual[:, 1] == 7).all() and (found[:, 1] == 7).all()
    assert (found[:, 2] != usual[:, 2]).all()


def test_the_folders_own_options(tmp_path):
    """generation_config.json, or the keys of old in config.json, hold where no flag says more."""
    model, inputs = reference(LLAMA), prompt(LLAMA)
    model.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    said = json.loads(path.read_text())
    own = dict(max_length=9, num_beams=2, no_repeat_ngram_size=1, length_penalty=0.5)
    path.write_text(json.dumps(said | own))
    again = type(model).from_pretrained(tmp_path)
    usual = agree(read_folder(tmp_path), again, inputs, {})
    agree(read_folder(tmp_path), again, inputs, dict(num_beams=1, max_new_tokens=3))
    path.unlink()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    again = type(model).from_pretrained(tmp_path)
    np.testing.assert_array_equal(agree(read_folder(tmp_path), again, inputs, {}), usual)


def test_without_any_option_twenty_tokens_are_written_as_far_as_they_fit(tmp_path):
    model, inputs = reference("GPT2LMHeadModel"), prompt("GPT2LMHeadModel")
    model.save_pretrained(tmp_path)
    assert agree(read_folder(tmp_path), model, inputs, {}).shape == (2, 16)  # all of n_positions


def test_flags_become_a_search():
    assert search_of({}) == decode.Search(20, ())
    assert search_of({}, 3, room=7).max_length == 7
    assert search_of(dict(max_length=9), 4).max_length == 5
    assert search_of(dict(min_length=9, max_new_tokens=20), 4).min_length == 5
    assert search_of(dict(min_length=9, min_new_tokens=2), 4).min_length == 2
    assert search_of(dict(forced_bos_token_id=3), 2).forced == ()
    assert search_of(dict(forced_bos_token_id=3), 1).forced == (3,)
    assert search_of(dict(temperature=0.5, top_p=0.3, eos_token_id=[4, 5])).pad == 4
    assert search_of(dict(begin_suppress_tokens=[5, 3])).banned_first == (3, 5)
    words = search_of(dict(bad_words_ids=[[5, 6], [2], [4]], eos_token_id=[2]))
    assert words.banned_words == ((4,), (5, 6)) and words.banned == ()
    assert folder_flags({}, dict(num_beams=3, hidden_size=4)) == dict(num_beams=3)
    assert folder_flags(dict(top_k=1), dict(num_beams=3)) == dict(top_k=1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(penalty=2), "unknown flag 'penalty'"),
        (dict(do_sample=True), "do_sample=True is not supported"),
        (dict(max_length=4), "max_length=4 counts the prompt, which has 4 tokens"),
        (dict(bad_words_ids=[[3, 4], []]), "a word without tokens"),
        (dict(forced_eos_token_id=3, eos_token_id=2), r"forced_eos_token_id=\[3\]"),
        (dict(encoder_repetition_penalty=2.0), "encoder_repetition_penalty=2.0"),
        (dict(guidance_scale=1.5), "guidance_scale=1.5 is not supported"),
        (dict(stop_strings=["."]), r"stop_strings=\['.'\] is not supported"),
        (dict(sequence_bias=[[[3, 4], 1.0]]), "sequence_bias=.* is not supported"),
    ],
)
def test_flags_that_are_not_supported(flags, message):
    with pytest.raises(ValueError, match=message):
        search_of(flags, 4)
