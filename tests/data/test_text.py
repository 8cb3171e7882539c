"""Sequences as encoders and decoders read them, position by position."""

import numpy as np
import pytest
import tokenizers

from vlm_jax.data import text
from vlm_jax.tokenizers import Tokenizer, make_tokenizer

TOKENIZER = make_tokenizer({"name": "word"}, lambda: ["is it red a big dog"])
IDS = lambda words: TOKENIZER.encode(words)
BOS, EOS, PAD = TOKENIZER.bos, TOKENIZER.eos, 0


def test_pad_fills_up_or_cuts():
    ids, mask = text.pad([7, 8], 4)
    assert ids.tolist() == [7, 8, 0, 0] and mask.tolist() == [True, True, False, False]
    assert ids.dtype == np.int32 and mask.dtype == bool
    ids, mask = text.pad([7, 8, 9], 2)
    assert ids.tolist() == [7, 8] and mask.all()


def test_encoder_text_stands_between_bos_and_eos():
    arrays = text.encoder_text(TOKENIZER, "red dog", 6)
    assert arrays["text"].tolist() == [BOS, *IDS("red dog"), EOS, PAD, PAD]
    assert arrays["text_mask"].tolist() == [True] * 4 + [False] * 2


def test_a_long_encoder_text_keeps_its_eos_and_an_empty_one_is_no_error():
    long = text.encoder_text(TOKENIZER, "a big red dog", 4)
    assert long["text"].tolist() == [BOS, *IDS("a big"), EOS] and long["text_mask"].all()
    assert text.encoder_text(TOKENIZER, "", 3)["text"].tolist() == [BOS, EOS, PAD]


def test_decoder_text_predicts_the_text_and_never_the_prompt():
    arrays = text.decoder_text(TOKENIZER, "is it", "big dog", 8)
    question, answer = IDS("is it"), IDS("big dog")
    assert arrays["tokens"].tolist() == [*question, BOS, *answer, PAD, PAD, PAD]
    assert arrays["targets"].tolist() == [question[1], BOS, *answer, EOS, PAD, PAD, PAD]
    assert arrays["targets_mask"].tolist() == [False, False, True, True, True, False, False, False]
    assert arrays["tokens_mask"].tolist() == [True] * 5 + [False] * 3
    assert arrays["prefix"] == 3 and arrays["prefix"].dtype == np.int32
    assert {arrays[k].dtype for k in ("tokens", "targets")} == {np.dtype(np.int32)}


def test_every_counted_target_is_the_next_token():
    arrays = text.decoder_text(TOKENIZER, "is it red", "a dog", 9)
    for t in np.flatnonzero(arrays["targets_mask"][:-1]):
        if arrays["targets"][t] != EOS:
            assert arrays["tokens"][t + 1] == arrays["targets"][t]


def test_a_text_that_is_too_long_loses_its_end():
    arrays = text.decoder_text(TOKENIZER, "", "a big red dog", 3)
    assert arrays["tokens"].tolist() == [BOS, *IDS("a big")]
    assert arrays["targets"].tolist() == IDS("a big red") and arrays["targets_mask"].all()


@pytest.mark.parametrize("words", ["", "is it"])
def test_generation_starts_from_what_training_read_before_the_first_target(words):
    trained = text.decoder_text(TOKENIZER, words, "red", 8)
    prompt = text.decoder_prompt(TOKENIZER, words)
    count = int(prompt["prefix"])
    assert prompt["tokens"].tolist() == trained["tokens"][:count].tolist()
    assert prompt["tokens_mask"].all() and count == trained["prefix"]
    assert trained["targets_mask"].argmax() == count - 1


def test_prompts_of_one_length_can_be_stacked_and_are_cut_as_in_training():
    short = text.decoder_prompt(TOKENIZER, "red", 4)
    assert short["tokens"].tolist() == [*IDS("red"), BOS, PAD, PAD] and short["prefix"] == 2
    long = text.decoder_prompt(TOKENIZER, "is it red a big", 4)
    assert long["tokens"].tolist() == [*IDS("is it red"), BOS] and long["prefix"] == 4
    trained = text.decoder_text(TOKENIZER, "is it red a big", "dog", 8, prompt_length=4)
    assert trained["tokens"][:4].tolist() == long["tokens"].tolist()
    assert trained["tokens"][4:5].tolist() == IDS("dog") and trained["prefix"] == 4


def test_a_prompt_without_room_for_a_text_is_named():
    with pytest.raises(ValueError, match=r"leaves no room.*length=4: raise"):
        text.decoder_text(TOKENIZER, "is it red", "dog", 4)
    assert text.decoder_text(TOKENIZER, "is it", "dog", 4)["targets_mask"].sum() == 2


def test_a_template_is_read_as_one_text_around_its_special_tokens():
    pieces = make_tokenizer({"name": "bpe", "size": 300}, lambda: ["is it red", "it is it"] * 9)
    whole = pieces.encode("is it red")
    assert text.fill(pieces, "{bos}is {prompt} red{eos}", "it") == [pieces.bos, *whole, pieces.eos]
    assert text.fill(pieces, "[BOS]is it red{[MASK]*2}", "") == [pieces.bos, *whole, 4, 4]
    assert text.fill(pieces, "{7*2}{pad}", "") == [7, 7, pieces.pad]


def test_special_tokens_in_what_users_write_are_words():
    ids = text.fill(TOKENIZER, "{bos}[MASK] {prompt} dog", "is [MASK]")
    assert ids[:2] == [BOS, TOKENIZER.mask] and ids[-1:] == IDS("dog")
    assert TOKENIZER.mask not in ids[2:] and IDS("is")[0] in ids


def test_a_template_that_exceeds_the_length_or_asks_twice_is_named():
    with pytest.raises(ValueError, match="alone needs 2 of 1 tokens"):
        text.fill(TOKENIZER, "{bos}{prompt}{eos}", "is it", 1)
    with pytest.raises(ValueError, match="more than one {prompt}"):
        text.fill(TOKENIZER, "{prompt}{prompt}", "is it")


def test_an_encoder_s_text_may_have_a_template():
    arrays = text.encoder_text(TOKENIZER, "is it red", 5, "{bos}a {prompt}{eos}")
    assert arrays["text"].tolist() == [BOS, *IDS("a is it"), EOS]


def test_a_text_begins_after_a_token_that_is_given_by_its_number():
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    names = ["<unk>", "<s>", "</s>", "<image>"]
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=names, show_progress=False)
    model.train_from_iterator(["is it red", "it is"], trainer)
    marked = Tokenizer(model.to_str())
    whole = model.encode("is it<image>red").ids
    assert text.fill(marked, "{1}is {prompt}{<image>}red", "it") == [1, *whole]
    within = model.encode("<s>is it<image>red").ids
    assert within[1:] != whole and text.fill(marked, "{bos}is it{<image>}red", "") == within
