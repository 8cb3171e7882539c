import copy
import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from vlm_jax.tokenizers import Tokenizer, make_tokenizer

TEXTS = ["a red circle, left of a blue square.", "what color is it?", "it's a t-shirt"]
KINDS = ("word", "byte", "bpe", "wordpiece")


def made(kind, **arguments):
    return make_tokenizer({"name": kind, **arguments}, lambda: TEXTS)


def published(tokens, specials=()):
    """A tokenizer.json as others publish them, splitting at spaces."""
    model = tokenizers.Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[1])
    )
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.decoder = decoders.WordPiece()
    model.add_special_tokens(list(specials))
    return model.to_str()


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_distinct_padding_is_zero_and_every_id_is_below_size(kind):
    tokenizer = made(kind)
    ids = [tokenizer.pad, tokenizer.unknown, tokenizer.bos, tokenizer.eos, tokenizer.mask]
    assert ids == [0, 1, 2, 3, 4]
    assert (tokenizer.cls, tokenizer.sep) == (tokenizer.bos, tokenizer.eos)
    used = [i for text in TEXTS for i in tokenizer.encode(text)]
    assert used and min(used) > 4 and max(used) < tokenizer.size
    assert tokenizer.token(tokenizer.size - 1) is not None
    assert tokenizer.token(tokenizer.size) is None


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_spells_a_special_token_does_not_become_one(kind):
    tokenizer = made(kind)
    for one in (tokenizer, copy.deepcopy(tokenizer)):  # as when sent to another process
        assert not {0, 2, 3, 4} & set(one.encode("[EOS] a [MASK] [PAD][BOS]"))


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_stops_at_eos_and_leaves_specials_out(kind):
    tokenizer = made(kind)
    ids = tokenizer.encode(TEXTS[1])
    framed = [tokenizer.bos, *ids, tokenizer.eos, *tokenizer.encode("a red circle"), 0, 0]
    assert tokenizer.decode(framed) == TEXTS[1]
    assert tokenizer.decode([tokenizer.bos, *ids, 0, 0]) == TEXTS[1]
    assert tokenizer.decode([]) == tokenizer.decode([tokenizer.eos, *ids]) == ""
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_decoding_an_id_outside_the_vocabulary_is_an_error(wrong):
    with pytest.raises(ValueError, match=rf"token id {wrong} .*\[0, 261\)"):
        made("byte").decode([70, wrong])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_loads_as_the_same_and_saves_the_same_bytes(kind, tmp_path):
    tokenizer = made(kind)
    tokenizer.save(tmp_path / "a.json")
    loaded = Tokenizer.load(tmp_path / "a.json")
    loaded.save(tmp_path / "deep" / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "deep" / "b.json").read_bytes()
    assert [loaded.encode(t) for t in TEXTS] == [tokenizer.encode(t) for t in TEXTS]
    assert (loaded.size, loaded.eos) == (tokenizer.size, tokenizer.eos)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "deep"]  # nothing left behind


def test_a_published_bert_vocabulary_keeps_its_ids(tmp_path):
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "t.json").write_text(published([*specials, "a", "cat"], specials))
    tokenizer = make_tokenizer({"name": "file", "path": str(tmp_path / "t.json")}, list)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.mask, tokenizer.size) == (2, 3, 4, 7)
    assert tokenizer.encode("a cat zebra") == [5, 6, 1]
    assert tokenizer.decode([2, 5, 6, 3, 0]) == "a cat"


def test_a_vocabulary_with_one_token_for_both_ends_and_chosen_roles(tmp_path):
    definition = published(["<|endoftext|>", "<unk>", "cat", "<stop>"], ["<|endoftext|>", "<stop>"])
    tokenizer = Tokenizer(definition)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.mask) == (0, 0, None)
    assert tokenizer.decode([0, 2, 0, 2]) == "cat"
    chosen = Tokenizer(definition, {"eos": "<stop>"})
    chosen.save(tmp_path / "t.json")
    assert chosen.eos == Tokenizer.load(tmp_path / "t.json").eos == 3


def test_padding_and_truncation_of_a_published_file_are_switched_off():
    model = tokenizers.Tokenizer.from_str(published(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]))
    model.enable_padding(length=9)
    model.enable_truncation(2)
    assert Tokenizer(model.to_str()).encode("a a a") == [4, 4, 4]


@pytest.mark.parametrize(
    ("tokens", "roles", "message"),
    [
        (["x", "y"], {}, "no bos token found"),
        (["x", "[EOS]"], {"end": "x"}, "unknown role 'end'; the roles are bos, eos"),
        (["x", "[EOS]"], {"eos": "z"}, "eos should be 'z', which is not in the vocabulary"),
    ],
)
def test_roles_that_cannot_be_filled_are_named(tokens, roles, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(published(tokens), roles)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 1}', b"\xff\xfe", b"3"])
def test_a_file_that_is_no_tokenizer_is_named(content, tmp_path):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match="bad.json"):
        Tokenizer.load(tmp_path / "bad.json")


def test_a_saved_file_is_one_json_object(tmp_path):
    made("bpe", size=300).save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert set(content) == {"format", "roles", "tokenizer"}


def test_a_missing_file_and_an_unknown_kind(tmp_path):
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="'wordpiece'"):
        made("wordpeice")
    with pytest.raises(TypeError, match="did you mean 'min_count'"):
        made("word", mincount=2)


def test_texts_end_by_the_tokens_that_were_chosen(tmp_path):
    made = Tokenizer(make_tokenizer({"name": "word"}, lambda: TEXTS)._model.to_str(), None, (6, 7))
    assert made.ends == (6, 7) and made.decode([5, 3, 8, 7, 9]) == made.decode([5, 8])
    made.save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").ends == copy.deepcopy(made).ends == (6, 7)


def test_texts_of_ours_may_name_special_tokens():
    words = make_tokenizer({"name": "word"}, lambda: TEXTS)
    assert words.read("[MASK] red") == [words.mask, *words.encode("red")]
    assert words.mask not in words.encode("[MASK] red") and words.mask in words.special


def test_what_a_text_goes_through_first_is_kept(tmp_path):
    plain = made("byte")
    cleaned = plain.cleaned("open_clip")
    text = "it&rsquo;s “ﬁne”"
    assert cleaned.encode(text) == plain.encode('it\'s "fine"') != plain.encode(text)
    cleaned.save(tmp_path / "tokenizer.json")
    kept = Tokenizer.load(tmp_path / "tokenizer.json")
    for other in (kept, copy.deepcopy(cleaned), cleaned.lowered()):
        assert other.encode(text) == cleaned.encode(text)
    with pytest.raises(ValueError, match="unknown cleaner 'soap'; there are open_clip"):
        plain.cleaned("soap")
