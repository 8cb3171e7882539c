"""Tokenizers of published folders: roles, and the special tokens around a text."""

import json

import pytest
import tokenizers

from vlm_jax.data.text import decoder_prompt, decoder_text, encoder_text
from vlm_jax.tokenizers.published import read_tokenizer

WORDS = ["<unk>", "<pad>", "<s>", "</s>", "<image>", "answer", "en", "what", "is", "it", "red"]


def write(folder, template=None, named=None, skip=()):
    model = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.add_special_tokens(WORDS[:5])
    if template:
        special = [(word, i) for i, word in enumerate(WORDS) if word in template.split()]
        model.post_processor = tokenizers.processors.TemplateProcessing(
            single=template, special_tokens=special
        )
    model.save(str(folder / "tokenizer.json"))
    for name, content in (named or {}).items():
        (folder / name).write_text(json.dumps(content))
    return read_tokenizer(folder)


def test_what_stands_around_a_text_is_read_from_the_definition(tmp_path):
    for template, before, after in (
        ("<s> $A </s>", (2,), (3,)),
        ("$A </s>", (), (3,)),
        ("<s> <s> $A", (2, 2), ()),
        (None, (2,), (3,)),
    ):
        found = write(tmp_path, template)
        assert (found.before, found.after) == (before, after)
        text = encoder_text(found, "what is it", 6)["text"]
        expected = [*before, 7, 8, 9, *after]
        assert text.tolist() == expected + [1] * (6 - len(expected))


def test_a_long_text_loses_its_end_and_keeps_the_token_after_it(tmp_path):
    made = encoder_text(write(tmp_path, "$A </s>"), "what is it red red", 4)
    assert made["text"].tolist() == [7, 8, 9, 3] and made["text_mask"].all()


def test_roles_come_from_the_folder(tmp_path):
    named = {
        "special_tokens_map.json": {"pad_token": {"content": "red"}, "bos_token": "what"},
        "tokenizer_config.json": {"bos_token": "en", "mask_token": None},
    }
    found = write(tmp_path, named=named)
    assert (found.pad, found.bos, found.eos) == (10, 6, 3)


def test_a_folder_without_a_definition_says_what_to_do(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no tokenizer.json, only spiece.model: write one with"):
        read_tokenizer(tmp_path)


def test_templates(tmp_path):
    found = write(tmp_path)
    template = "{<image>*3}{bos}answer en {prompt}{</s>}"
    made = decoder_prompt(found, "what is it", template=template)
    assert made["tokens"].tolist() == [4, 4, 4, 2, 5, 6, 7, 8, 9, 3]
    cut = decoder_prompt(found, "what is it", 9, template=template)
    assert cut["tokens"].tolist() == [4, 4, 4, 2, 5, 6, 7, 8, 3]
    text = decoder_text(found, "it", "red", 12, template=template)
    assert text["tokens"].tolist() == [4, 4, 4, 2, 5, 6, 9, 3, 10, 1, 1, 1]
    assert text["targets"][text["targets_mask"]].tolist() == [10, 3]
    assert text["prefix"] == 8
    with pytest.raises(ValueError, match="alone needs 7 of 5 tokens"):
        decoder_prompt(found, "it", 5, template=template)
    with pytest.raises(ValueError, match="no token '<video>'"):
        decoder_prompt(found, "it", template="{<video>}{prompt}")
    assert 4 not in found.encode("<image> it")
