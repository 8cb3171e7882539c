"""What the reference library's tokenizer classes do with the vocabulary files of a folder.

Each function takes (files, options): the paths of the class's files in order, and the folder's
tokenizer_config.json; it gives a tokenizer of the `tokenizers` library that splits and joins texts
but knows no special tokens yet. ValueError for a file or an option that is not supported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vlm_jax.tokenizers.sentencepiece import Pieces, read_pieces

Options = Mapping[str, Any]
Files = Sequence[Path]

SPACE = "▁"
"""What SentencePiece writes for a space."""

BLANKS = r"[\s\x1c-\x1f\x85]+"
"""Runs of what Python calls white space."""

PUNCTUATION = r"[!-/:-@\[-`{-~]"
"""ASCII's."""

IGNORED = r"['.:^`\p{Mn}\p{Lm}\p{Sk}\p{Cf}]"
FINAL_SIGMA = rf"(?<=\p{{L}}|\p{{L}}{IGNORED})Σ(?!{IGNORED}*\p{{L}})"
"""The sigma that ends a word, which has a small letter of its own."""

CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What the authors of CLIP (arXiv:2103.00020) and Qwen2 call a word."""


def wordpiece(files: Files, options: Options) -> Tokenizer:
    """BERT's (arXiv:1810.04805): one piece a line."""
    _only(options, do_basic_tokenize=True, never_split=None)
    lines = files[0].read_text(encoding="utf-8").split("\n")
    pieces = {piece: index for index, piece in enumerate(lines) if piece or index + 1 < len(lines)}
    unknown = _name(options.get("unk_token", "[UNK]"))
    model = Tokenizer(models.WordPiece(pieces, unk_token=unknown))
    model.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(options.get("tokenize_chinese_chars", True)),
        strip_accents=options.get("strip_accents"),
        lowercase=bool(options.get("do_lower_case", True)),
    )
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.decoder = decoders.WordPiece(prefix="##")
    return model


def gpt2(files: Files, options: Options) -> Tokenizer:
    """Byte-level BPE of GPT-2, which OPT and RoBERTa have, too."""
    model = Tokenizer(_pairs(files))
    spaced = bool(options.get("add_prefix_space", False))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    model.decoder = decoders.ByteLevel()
    return model


def qwen2(files: Files, options: Options) -> Tokenizer:
    """Byte-level BPE of Qwen2: composed characters, single digits."""
    model = Tokenizer(_pairs(files))
    model.normalizer = normalizers.NFC()
    spaced = bool(options.get("add_prefix_space") or False)
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False)
    model.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    model.decoder = decoders.ByteLevel()
    return model


def clip(files: Files, options: Options) -> Tokenizer:
    """CLIP's: small letters, words that end in </w>, bytes."""
    unknown = _name(options.get("unk_token", "<|endoftext|>"))
    model = Tokenizer(_pairs(files, end_of_word_suffix="</w>", unk_token=unknown))
    model.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    space = decoders.Replace("</w>", "Ġ")  # the byte-level name of a space
    strip = decoders.Replace(Regex(" $"), "")
    model.decoder = decoders.Sequence([space, decoders.ByteLevel(), strip])
    return model


def llama(files: Files, options: Options) -> Tokenizer:
    """SentencePiece BPE of Llama: a space before the first word."""
    pieces = _sentencepiece(files, options)
    model = Tokenizer(_bpe(pieces))
    spaced = options.get("add_prefix_space")
    scheme = "first" if not options.get("legacy", False) else "always"
    scheme = scheme if spaced is None or spaced else "never"
    model.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if scheme != "never":
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    model.decoder = decoders.Sequence(steps)
    return model


def gemma(files: Files, options: Options) -> Tokenizer:
    """SentencePiece BPE of Gemma: spaces as they are."""
    pieces = _sentencepiece(files, options)
    model = Tokenizer(_bpe(pieces, unk_token=_name(options.get("unk_token", "<unk>"))))
    model.normalizer = normalizers.Replace(" ", SPACE)
    model.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    model.decoder = decoders.Sequence(steps)
    return model


def siglip2(files: Files, options: Options) -> Tokenizer:
    """Gemma's, with small letters."""
    model = gemma(files, options)
    model.normalizer = normalizers.Sequence([normalizers.Lowercase(), model.normalizer])
    return model


def t5(files: Files, options: Options) -> Tokenizer:
    """SentencePiece unigrams of T5 (arXiv:1910.10683), and behind them the extra ids, the first
    one last.
    """
    pieces = _sentencepiece(files, options, unigram=True)
    scored = [(text, score) for text, score, _ in pieces.pieces]
    scored += [(text, 0.0) for text in extra_ids(options)]
    model = Tokenizer(models.Unigram(scored, unk_id=pieces.unknown))
    if pieces.charsmap:
        model.normalizer = normalizers.Precompiled(pieces.charsmap)
    spaces: dict[str, Any] = dict(replacement=SPACE, prepend_scheme="always", split=True)
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    )
    model.decoder = decoders.Metaspace(**spaces)
    return model


def extra_ids(options: Options) -> list[str]:
    """T5's tokens for gaps in a text, in the order of their ids."""
    return [f"<extra_id_{i}>" for i in reversed(range(options.get("extra_ids", 100)))]


def siglip(files: Files, options: Options) -> Tokenizer:
    """SentencePiece unigrams of SigLIP (arXiv:2303.15343): small letters without ASCII's
    punctuation, a space before the first word.
    """
    pieces = _sentencepiece(files, options, unigram=True)
    if not pieces.merges_spaces:
        raise ValueError(f"{files[0]}: remove_extra_whitespaces=false is not supported")
    scored = [(text, score) for text, score, _ in pieces.pieces]
    model = Tokenizer(models.Unigram(scored, unk_id=pieces.unknown))
    lower = bool(options.get("do_lower_case", True))
    small = [normalizers.Replace(Regex(FINAL_SIGMA), "ς"), normalizers.Lowercase()]
    # The space before the first word is there before others are joined: one more stays beside it.
    steps = [
        normalizers.Replace(SPACE, " "),
        normalizers.Prepend(SPACE),
        *(small if lower else []),
        normalizers.Replace(Regex(PUNCTUATION), ""),
        normalizers.Replace(Regex(BLANKS), " "),
        *([normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []),
        normalizers.Replace(Regex(" +"), " "),
        normalizers.Replace(" ", SPACE),
        normalizers.Replace(Regex(f"{SPACE}+$"), ""),
    ]
    model.normalizer = normalizers.Sequence(steps)
    ends = decoders.Replace(Regex("^ +| +$"), "")
    model.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), ends])
    return model


def _sentencepiece(files: Files, options: Options, unigram: bool = False) -> Pieces:
    """The vocabulary of a class that takes it as it is."""
    _only(options, sp_model_kwargs={})
    pieces = read_pieces(files[0])
    if unigram and pieces.kind != 1:
        raise ValueError(f"{files[0]} holds BPE, where this class reads unigrams")
    if not unigram and pieces.kind != 2:
        raise ValueError(f"{files[0]} holds unigrams, where this class reads BPE")
    return pieces


def _bpe(pieces: Pieces, **options: Any) -> models.BPE:
    """Pairs of characters, and bytes for what is unknown."""
    return models.BPE(pieces.ids, pieces.merges(), fuse_unk=True, byte_fallback=True, **options)


def _pairs(files: Files, **options: Any) -> models.BPE:
    """Byte pairs of vocab.json and merges.txt."""
    vocabulary, merges = models.BPE.read_file(*map(str, files))
    suffixes: dict[str, str] = dict(continuing_subword_prefix="", end_of_word_suffix="")
    return models.BPE(vocabulary, merges, **(suffixes | options))


def _only(options: Options, **usual: Any) -> None:
    """ValueError for an option with another value than the usual one."""
    for key, value in usual.items():
        if options.get(key, value) not in (value, None):
            raise ValueError(f"tokenizer_config.json: {key}={options[key]!r} is not supported")


def _name(token: Any) -> str:
    """A token's text, which files give as it is or with properties."""
    return token["content"] if isinstance(token, Mapping) else str(token)


@dataclass(frozen=True)
class Class:
    """A tokenizer class.

    build: see above. files: names of its files, the first of which may have several. tokens: the
    special tokens that it has where a folder does not say. around: keys of tokens before and after
    a text, None for what add_bos_token and add_eos_token decide. more: further special tokens.
    """

    build: Callable[[Files, Options], Tokenizer]
    files: tuple[tuple[str, ...], ...]
    tokens: Mapping[str, str] = field(default_factory=dict)
    around: tuple[str, str] | None = None
    more: Callable[[Options], list[str]] = field(default=lambda options: [])

    def found(self, folder: Path) -> list[Path]:
        """Its files in a folder; [] unless all of them are there."""
        paths = [
            next((folder / name for name in names if (folder / name).is_file()), None)
            for names in self.files
        ]
        return [path for path in paths if path is not None] if all(paths) else []


PAIRS = (("vocab.json",), ("merges.txt",))
MODEL = (("tokenizer.model", "spiece.model"),)
END = "<|endoftext|>"
BERT_TOKENS = dict(unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]")
BERT = Class(
    wordpiece,
    (("vocab.txt",),),
    BERT_TOKENS | dict(mask_token="[MASK]"),
    ("cls_token", "sep_token"),
)
ROBERTA_TOKENS = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", sep_token="</s>")
ROBERTA_TOKENS |= dict(pad_token="<pad>", cls_token="<s>", mask_token="<mask>")
GEMMA_TOKENS = dict(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")
GEMMA_TOKENS |= dict(mask_token="<mask>")
T5_TOKENS = dict(eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
CLASSES: Mapping[str, Class] = {
    "BertTokenizer": BERT,
    "LxmertTokenizer": BERT,
    "DistilBertTokenizer": BERT,
    "CLIPTokenizer": Class(
        clip,
        PAIRS,
        dict(bos_token="<|startoftext|>", eos_token=END, unk_token=END, pad_token=END),
        ("bos_token", "eos_token"),
    ),
    "GPT2Tokenizer": Class(gpt2, PAIRS, dict(bos_token=END, eos_token=END, unk_token=END)),
    "RobertaTokenizer": Class(gpt2, PAIRS, ROBERTA_TOKENS, ("cls_token", "sep_token")),
    "Qwen2Tokenizer": Class(qwen2, PAIRS, dict(eos_token=END, unk_token=END, pad_token=END)),
    "LlamaTokenizer": Class(
        llama, MODEL, dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    ),
    "GemmaTokenizer": Class(gemma, MODEL, GEMMA_TOKENS),
    "Siglip2Tokenizer": Class(siglip2, MODEL, GEMMA_TOKENS),
    "T5Tokenizer": Class(t5, MODEL, T5_TOKENS, ("", "eos_token"), extra_ids),
    "SiglipTokenizer": Class(siglip, MODEL, T5_TOKENS | dict(pad_token="</s>"), ("", "eos_token")),
}
"""By the name in tokenizer_config.json, without "Fast" at its end."""

MODEL_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("bert", "blip", "git", "vilt", "visual_bert"), "BertTokenizer"),
    **dict.fromkeys(("gpt2", "opt", "blip-2", "smolvlm"), "GPT2Tokenizer"),
    **dict.fromkeys(("llama", "llava", "idefics"), "LlamaTokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text", "paligemma"), "GemmaTokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_vl"), "Qwen2Tokenizer"),
    **dict.fromkeys(("siglip", "big_vision"), "SiglipTokenizer"),
    **dict.fromkeys(("t5", "cappa"), "T5Tokenizer"),
    **dict.fromkeys(("clip", "open_clip", "open_clip_coca"), "CLIPTokenizer"),
    "lxmert": "LxmertTokenizer",
    "roberta": "RobertaTokenizer",
    "siglip2": "Siglip2Tokenizer",
}
"""The class of a folder that names none, by config.json."""
