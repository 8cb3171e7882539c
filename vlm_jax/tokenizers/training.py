"""Tokenizers made here: words, bytes, byte-pair encoding (arXiv:1508.07909) and WordPiece
(arXiv:1609.08144, 4.1).

All of them start with the same five special tokens, so that ids 0 to 4 mean the same everywhere,
and all are deterministic: the same texts in the same order give the same file.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import (
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import (
    Tokenizer as Model,
)

from vlm_jax.tokenizers.tokenizer import Tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]")
"""Ids 0 to 4 of every tokenizer made here."""

Texts = Callable[[], Iterable[str]]
"""A function that goes through the training texts; called only if they are needed."""

# Words keep their apostrophes and hyphens ("it's", "t-shirt"); any other mark is its own token.
_WORD = r"\w+(?:['’-]\w+)*|[^\w\s]"


def word(texts: Texts, *, min_count: int = 1, size: int | None = None) -> Tokenizer:
    """A closed vocabulary of lower-case words and punctuation marks; all else is unknown.

    min_count: rarer words are left out. size: keep only the most frequent ones, specials included.
    Decoding returns the lower-case text with one space between words and none before , . ? and !.
    """
    model = Model(models.WordLevel({}, unk_token="[UNK]"))
    model.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    model.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    model.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    counts = _pieces(model, texts)
    frequent = sorted(counts, key=lambda entry: (-counts[entry], entry))
    words = [entry for entry in frequent if counts[entry] >= min_count]
    if size is not None:
        words = words[: _checked(size, len(SPECIALS) + 1) - len(SPECIALS)]
    vocabulary = [*SPECIALS, *words]
    model.model = models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    return _finished(model)


def byte(texts: Texts) -> Tokenizer:
    """UTF-8 bytes, 261 ids: needs no training, knows every text and returns it exactly
    (arXiv:2105.13626).
    """
    del texts
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*SPECIALS, *alphabet])}
    model = Model(models.BPE(vocab=vocabulary, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    return _finished(model)


def bpe(texts: Texts, *, size: int = 8192, min_count: int = 2, lower: bool = False) -> Tokenizer:
    """Byte-level byte-pair encoding as in GPT-2: knows every text and, unless lower, returns it
    exactly.

    size: at most so many ids, at least 261. min_count: rarer pairs are not merged.
    """
    model = Model(models.BPE())
    if lower:
        model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_checked(size, len(SPECIALS) + 256),
        min_frequency=min_count,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(_not_empty(texts), trainer)
    return _finished(model)


def wordpiece(
    texts: Texts, *, size: int = 8192, min_count: int = 2, lower: bool = True
) -> Tokenizer:
    """WordPiece as in BERT: words split into known pieces; a word with an unseen character is
    unknown.

    size: at most so many ids; it must hold the letters of the texts. min_count: rarer pairs are not
    merged. lower: also strips accents, as BERT does.
    """
    model = _wordpiece({}, lower)
    pieces = _pieces(model, texts)
    letters = {letter for piece in pieces for letter in piece}
    letters |= {f"##{letter}" for piece in pieces for letter in piece[1:]}
    trainer = trainers.WordPieceTrainer(
        vocab_size=_checked(size, least=len(SPECIALS) + len(letters)),
        min_frequency=min_count,
        # Letters too, or the trainer numbers them by hash seed, and breaks ties by number.
        special_tokens=[*SPECIALS, *sorted(letters)],
        show_progress=False,
    )
    model.train_from_iterator(texts(), trainer)
    return _finished(_wordpiece(model.get_vocab(), lower))


def _wordpiece(vocabulary: dict[str, int], lower: bool) -> Model:
    """A WordPiece model without special tokens."""
    pieces: Any = models.WordPiece  # its stub knows no arguments
    model = Model(pieces(vocabulary, unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer(lowercase=lower)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return model


def _pieces(model: Model, texts: Texts) -> Counter[str]:
    """How often each word or mark of the texts occurs, after the model's normalisation."""
    counts: Counter[str] = Counter()
    for text in _not_empty(texts):
        normal = model.normalizer.normalize_str(text)
        counts.update(piece for piece, _ in model.pre_tokenizer.pre_tokenize_str(normal))
    return counts


def _finished(model: Model) -> Tokenizer:
    """The tokenizer with its special tokens marked as such, so that decoding leaves them out."""
    model.add_special_tokens(list(SPECIALS))
    return Tokenizer(model.to_str())


def _checked(size: int, least: int) -> int:
    """The size, if a vocabulary can have it. Raises ValueError."""
    if size < least:
        raise ValueError(
            f"a vocabulary of this kind has at least {least} ids; size={size} is too small"
        )
    return size


def _not_empty(texts: Texts) -> Iterable[str]:
    """The texts; ValueError if there are none, because the trainers would return an empty
    vocabulary.
    """
    some = False
    for text in texts():
        some = True
        yield text
    if not some:
        raise ValueError("no texts to train the tokenizer on; check the data set's captions")
