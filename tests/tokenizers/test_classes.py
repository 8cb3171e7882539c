"""Folders that hold a vocabulary instead of a tokenizer.json: the ids are the reference's."""

import io
import json
import random
from functools import lru_cache

import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers

from vlm_jax.tokenizers.published import read_tokenizer

WORDS = (
    "a photo of two cats on the red sofa . what colour is it ? it is red , isn't it ? the dog's "
    "ball lies beside three blue boxes . 12 of 345 people said hello world ! don't we'll you've"
).split()
LINES = [" ".join(random.Random(i).choices(WORDS, k=8)) for i in range(300)]
TEXTS = (
    *(
        "a photo of two cats",
        " a  photo",
        "",
        " ",
        "   trailing  ",
        "\r\n a\r",
        "hello\n\nworld\t!",
    ),
    *(
        "Ünïcode ½ ﬁ Ⅷ ＡＢ",
        "It's naïve: Œuvre Straße ǅ",
        "e\u0301 é",
        "İΣ ΣΑΣ",
        "日本 cats",
        "▁ x",
    ),
    *("don't we'll", "12345", "😀 cats\u200d", "a\u00a0b\u3000c", "\ufeffa\u200bb\u00ad", "``''.."),
    *("hello,world!?", "क्षि ก็ ỏ̂", "a\x00b\x07\x1cc", "ﷺ ①②", "x" * 50, "a <word> b<word>c"),
)
SPELLED = ("<s> a </s> <pad> <eos>", "a<mask>b <extra_id_0>", "[CLS] a[SEP]", "a<|endoftext|>")


@lru_cache
def spoken(**options):
    """A SentencePiece model trained on LINES."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=file, minloglevel=2, **options
    )
    return {"model": file.getvalue()}


LLAMA = dict(model_type="bpe", vocab_size=400, byte_fallback=True, split_digits=True)
LLAMA |= dict(normalization_rule_name="identity", remove_extra_whitespaces=False)
GEMMA = LLAMA | dict(add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3)
GEMMA |= dict(pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", vocab_size=420)
GEMMA |= dict(user_defined_symbols=",".join(("<mask>", "<start_of_turn>", "\n\n", "▁▁")))
UNIGRAM = dict(vocab_size=110, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


@lru_cache
def wordpieces():
    """BERT's file."""
    model = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    model.train_from_iterator(LINES, trainer)
    vocabulary = model.get_vocab()
    return {"vocab.txt": "\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n"}


@lru_cache
def pairs(special, suffix=""):
    """vocab.json and merges.txt."""
    model = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=suffix))
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), bytewise])
    model.pre_tokenizer = words if suffix else bytewise
    trainer = trainers.BpeTrainer(
        vocab_size=700 if suffix else 400,
        special_tokens=special.split(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=suffix,
    )
    model.train_from_iterator(LINES, trainer)
    content = json.loads(model.to_str())["model"]
    merges = "".join(f"{' '.join(pair)}\n" for pair in content["merges"])
    return {"vocab.json": json.dumps(content["vocab"]), "merges.txt": "#version: 0.2\n" + merges}


def files(kind):
    """The vocabulary files of a tokenizer class."""
    make = {
        "Bert": wordpieces,
        "CLIP": lambda: pairs("<|startoftext|> <|endoftext|>", "</w>"),
        "GPT2": lambda: pairs("<|endoftext|> <s> <pad> </s>"),
        "Roberta": lambda: pairs("<s> <pad> </s> <unk> <mask>"),
        "Qwen2": lambda: pairs("<|endoftext|> <|im_start|>"),
        "Llama": lambda: {"tokenizer.model": spoken(**LLAMA)["model"]},
        "Gemma": lambda: {"tokenizer.model": spoken(**GEMMA)["model"]},
        "T5": lambda: {"spiece.model": spoken(**UNIGRAM)["model"]},
        "Siglip": lambda: {"spiece.model": spoken(**UNIGRAM)["model"]},
    }
    return make[kind]()


def token(content, special=True, **properties):
    usual = dict(lstrip=False, rstrip=False, normalized=not special, single_word=False)
    return dict(content=content, special=special) | usual | properties


ADDED = {
    **{str(i): token(name) for i, name in enumerate(("<unk>", "<s>", "</s>"))},
    "400": token("<image>"),
    "401": token("<word>", special=False, lstrip=True),
}
CASES = {
    "BERT": ("Bert", {}),
    "BERT, cased": ("Bert", dict(do_lower_case=False)),
    "BERT, accents": ("Bert", dict(strip_accents=False, tokenize_chinese_chars=False)),
    "BLIP": ("Bert", dict(additional_special_tokens=["[DEC]", "[ENC]"])),
    "CLIP": ("CLIP", {}),
    "GPT-2": ("GPT2", {}),
    "GPT-2, spaced": ("GPT2", dict(add_prefix_space=True, pad_token="<|pad|>")),
    "OPT": (
        "GPT2",
        dict(add_bos_token=True, pad_token="<pad>")
        | dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>"),
    ),
    "RoBERTa": ("Roberta", {}),
    "Qwen2": ("Qwen2", dict(additional_special_tokens=["<|im_start|>", "<|im_end|>"])),
    "Llama": ("Llama", dict(add_bos_token=True, added_tokens_decoder=ADDED)),
    "Llama, legacy": ("Llama", dict(legacy=True, add_bos_token=True, add_eos_token=True)),
    "Llama, unspaced": ("Llama", dict(add_prefix_space=False, pad_token="<PAD>")),
    "Gemma": ("Gemma", dict(add_bos_token=True)),
    "T5": ("T5", {}),
    "T5, five gaps": ("T5", dict(extra_ids=5)),
    "SigLIP": ("Siglip", {}),
    "SigLIP, cased": ("Siglip", dict(do_lower_case=False)),
}


def write(folder, kind, config=None, **others):
    for name, content in files(kind).items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    others["tokenizer_config.json"] = {"tokenizer_class": f"{kind}Tokenizer"} | (config or {})
    for name, content in others.items():
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("case", CASES)
def test_ids_are_the_reference_s(case, tmp_path):
    kind, config = CASES[case]
    write(tmp_path, kind, config)
    reference = getattr(transformers, f"{kind}Tokenizer").from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    assert ours.size == len(reference)
    for text in TEXTS:
        ids = reference.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == ids, text
        if ours.framed:
            assert [*ours.before, *ids, *ours.after] == reference.encode(text), text
        else:
            assert ids == reference.encode(text, split_special_tokens=True), text
        if ids and ours.eos not in ids:  # which CLIP takes for what is unknown
            assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True), text
    for text in () if kind == "Siglip" else SPELLED:
        assert ours.read(text) == reference.encode(text, add_special_tokens=False), text
    for role, name in (("eos", "eos"), ("pad", "pad"), ("unknown", "unk"), ("mask", "mask")):
        expected = getattr(reference, f"{name}_token_id")
        if expected is not None and (name != "eos" or kind not in ("Bert", "Roberta")):
            assert getattr(ours, role) == expected, role


@pytest.mark.parametrize("kind", ["T5", "Siglip", "Llama", "Gemma", "Bert", "CLIP", "GPT2"])
def test_what_users_write_never_becomes_a_special_token(kind, tmp_path):
    write(tmp_path, kind)
    ours = read_tokenizer(tmp_path)
    for text in SPELLED:
        assert not ours.special - {ours.unknown} & set(ours.encode(text)), text
    assert ours.decode([]) == "" and ours.encode("") == []


@pytest.mark.parametrize("named", ["class", "model type", "model"])
def test_siglip_2_reads_small_letters_whatever_its_file_says(named, tmp_path):
    """Its published folders hold Gemma's tokenizer, which keeps capitals."""
    write(tmp_path, "Gemma")
    folder = tmp_path
    if named != "model":
        folder = tmp_path / "saved"
        transformers.GemmaTokenizer.from_pretrained(tmp_path).save_pretrained(folder)
    if named == "class":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["tokenizer_class"] = "Siglip2Tokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    else:
        (folder / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(reference).__name__ == "Siglip2Tokenizer"
    ours = read_tokenizer(folder)
    for text in TEXTS:
        ids = reference.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == ids, text
    assert ours.encode("A Cat") == ours.encode("a cat") != []


def test_added_tokens_of_older_folders(tmp_path):
    special = dict(additional_special_tokens=["<image>"], pad_token="<fill>")
    added = {"<image>": 400, "<fill>": 401, "newword": 402}
    others = {"special_tokens_map.json": special, "added_tokens.json": added}
    write(tmp_path, "Llama", **others)
    reference = transformers.LlamaTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    text = "a<image>newwords <fill>"
    assert ours.read(text) == reference.encode(text, add_special_tokens=False)
    assert (ours.pad, ours.id_of("<image>"), ours.size) == (401, 400, 403)


def test_config_json_means_a_class_where_none_is_named(tmp_path):
    write(tmp_path, "T5", {"tokenizer_class": "PreTrainedTokenizerFast"})
    config = {"model_type": "blip-2", "text_config": {"model_type": "t5"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_tokenizer(tmp_path).token(2) == "<unk>"


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("Bert", dict(tokenizer_class="MBartTokenizer"), "'MBartTokenizer' is not supported"),
        ("Bert", dict(tokenizer_class="T5TokenizerFast"), r"T5Tokenizer reads tokenizer.model or"),
        ("Bert", dict(never_split=["a"]), "never_split=.'a'. is not supported"),
        ("T5", dict(sp_model_kwargs=dict(enable_sampling=True)), "sp_model_kwargs=.* is not supp"),
        ("T5", dict(tokenizer_class="LlamaTokenizer"), "holds unigrams, where this class"),
        ("Llama", dict(added_tokens_decoder={"500": token("<image>")}), "should have id 500, not"),
    ],
)
def test_what_is_not_supported_is_named(kind, config, message, tmp_path):
    write(tmp_path, kind, config)
    with pytest.raises(ValueError, match=message):
        read_tokenizer(tmp_path)
