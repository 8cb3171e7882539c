"""The one interface to every tokenizer: text to ids, ids to text, and the ids with a meaning of
their own.

A thin layer over the `tokenizers` library that fixes what the rest of this codebase relies on:
`encode` adds no special tokens and never produces one from user text, `decode` ends at the
end-of-sequence token, and a tokenizer is one JSON file.
"""

import html
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import tokenizers

from vlm_jax.workdir import atomic_write_text

ROLES: Mapping[str, tuple[str, ...]] = {
    "bos": ("[BOS]", "[CLS]", "<s>", "<bos>", "<|startoftext|>", "<start_of_text>", "<|im_start|>"),
    "eos": ("[EOS]", "[SEP]", "</s>", "<eos>", "<|endoftext|>", "<end_of_text>", "<|im_end|>"),
    "unknown": ("[UNK]", "<unk>"),
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
}
"""The names that a special token goes by in published vocabularies; the first one present
plays the role."""

_FORMAT = "vlm_jax.tokenizer.1"


def as_open_clip(text: str) -> str:
    """A text as open_clip cleans it: mended where it was decoded wrongly, with straight quotes and
    whole letters for ligatures, and with characters for the HTML entities that stand for them.
    """
    import ftfy  # late: few need it

    return html.unescape(html.unescape(ftfy.fix_text(text)))


CLEANERS: Mapping[str, Callable[[str], str]] = {"open_clip": as_open_clip}
"""What a text may go through before it is split, which no definition can say."""


class Tokenizer:
    """A vocabulary with its rules for splitting and joining text.

    pad: what sequences are filled up with; 0 in every tokenizer made here. bos, eos: ids of the
    tokens that begin and end a sequence; cls and sep are the same two under their BERT names.
    unknown, mask: ids, or None where the vocabulary has no such token. before, after: the special
    tokens that the definition puts around a single text, bos and eos if it says nothing; framed:
    whether it says anything. ends: the tokens that end a text that is written, eos unless told
    otherwise. special: ids of the tokens that the definition calls special. size: the number of
    ids, so that every id is in [0, size); the V of an embedding table. cleaner: the name in
    CLEANERS of what `encode` does to a text first, if anything.
    """

    def __init__(
        self,
        definition: str,
        roles: Mapping[str, str] | None = None,
        ends: Sequence[int] | None = None,
        cleaner: str | None = None,
    ) -> None:
        """definition: the text of a tokenizer.json. roles: token names by role, {"eos":
        "<|im_end|>"}; a role left out is found by name, see ROLES. Raises ValueError for a bad
        definition, an unknown role or cleaner, or a missing token.
        """
        if cleaner is not None and cleaner not in CLEANERS:
            raise ValueError(f"unknown cleaner {cleaner!r}; there are {', '.join(CLEANERS)}")
        self.cleaner = cleaner
        try:
            self._model = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"not a tokenizer definition (tokenizer.json): {error}") from None
        self._model.encode_special_tokens = True  # else a caption saying "[EOS]" would end itself
        self._model.no_padding()
        self._model.no_truncation()
        vocabulary = self._model.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values()) + 1
        self._roles = dict(roles or {})
        ids = _role_ids(vocabulary, self._roles)
        self.bos, self.eos = _required(ids, "bos"), _required(ids, "eos")
        self.cls, self.sep = self.bos, self.eos
        self.unknown, self.mask = ids["unknown"], ids["mask"]
        self.pad = ids["pad"] or 0
        self.ends = tuple(ends or (self.eos,))
        added = self._model.get_added_tokens_decoder()
        self.special = frozenset(index for index, token in added.items() if token.special)
        self._reserved = self.special - {self.unknown}
        self.framed, self.before, self.after = self._surroundings()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens; [] for the empty text."""
        text = text if self.cleaner is None else CLEANERS[self.cleaner](text)
        ids = self._model.encode(text, add_special_tokens=False).ids
        if self._reserved.isdisjoint(ids):
            return ids
        return self._unnamed.encode(text, add_special_tokens=False).ids

    def read(self, text: str) -> list[int]:
        """The ids of a text of ours, in which the name of a special token stands for that token:
        never for what users write.
        """
        return self._reader.encode(text, add_special_tokens=False).ids

    @cached_property
    def _unnamed(self) -> tokenizers.Tokenizer:
        """A model in which no text spells a special token: unigrams and pairs may end up at its
        name like at any other piece.
        """
        definition = json.loads(self._model.to_str())
        _rename(definition, self._reserved)
        model = tokenizers.Tokenizer.from_str(json.dumps(definition))
        model.encode_special_tokens = True
        return model

    @cached_property
    def _reader(self) -> tokenizers.Tokenizer:
        """A second model, because what is special is a setting of the whole model, and threads
        share it.
        """
        model = tokenizers.Tokenizer.from_str(self._model.to_str())
        model.encode_special_tokens = False
        return model

    def id_of(self, token: str) -> int:
        """The id of a token by its exact name. ValueError if the vocabulary lacks it."""
        index = self._model.token_to_id(token)
        if index is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return index

    def _surroundings(self) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
        """Whether the definition's post-processor adds anything, and what before and after."""
        bare = self._model.encode("a", add_special_tokens=False).ids
        whole = self._model.encode("a", add_special_tokens=True).ids
        if whole == bare:
            return False, (self.bos,), (self.eos,)
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return True, tuple(whole[:start]), tuple(whole[start + len(bare) :])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first of `ends`, special tokens left out. Raises ValueError for
        an id outside [0, size).

        A bos that is also the eos (as in GPT-2) is skipped at the front instead of ending the text
        there.
        """
        kept = [int(i) for i in ids]
        if kept and kept[0] == self.bos:
            kept = kept[1:]
        kept = list(takewhile(lambda index: index not in self.ends, kept))
        wrong = [i for i in kept if not 0 <= i < self.size]
        if wrong:
            raise ValueError(f"token id {wrong[0]} is outside this tokenizer's [0, {self.size})")
        return self._model.decode(kept, skip_special_tokens=True)

    def token(self, index: int) -> str | None:
        """The vocabulary entry behind an id, as the vocabulary spells it; None for an id that it
        leaves unused.
        """
        return self._model.id_to_token(index)

    def save(self, path: str | Path) -> None:
        """Writes one JSON file, whole or not at all. The same tokenizer always gives the same
        bytes.
        """
        content = {
            "format": _FORMAT,
            "roles": self._roles,
            **({} if self.ends == (self.eos,) else {"ends": self.ends}),
            **({} if self.cleaner is None else {"cleaner": self.cleaner}),
            "tokenizer": json.loads(self._model.to_str()),
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(content, ensure_ascii=False))

    @classmethod
    def load(
        cls,
        path: str | Path,
        roles: Mapping[str, str] | None = None,
        ends: Sequence[int] | None = None,
    ) -> Self:
        """Reads a file written by `save`, or anyone's tokenizer.json. roles, ends: as for the
        constructor.

        Raises FileNotFoundError, or ValueError naming the file if it holds something else.
        """
        try:
            content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("format") == _FORMAT:
                ends = ends or content.get("ends")
                roles = roles or content["roles"]
                return cls(json.dumps(content["tokenizer"]), roles, ends, content.get("cleaner"))
            return cls(json.dumps(content), roles, ends)
        except ValueError as error:  # covers bad JSON and bad UTF-8 too
            raise ValueError(f"{path}: {error}") from None

    def lowered(self) -> Self:
        """The same for texts in small letters: capitals are read as those."""
        content: Any = json.loads(self._model.to_str())
        own = content["normalizer"]
        steps = [{"type": "Lowercase"}, *([own] if own else [])]
        content["normalizer"] = {"type": "Sequence", "normalizers": steps}
        return type(self)(json.dumps(content), self._roles, self.ends, self.cleaner)

    def cleaned(self, cleaner: str) -> Self:
        """The same for texts that go through one of CLEANERS first."""
        return type(self)(self._model.to_str(), self._roles, self.ends, cleaner)

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuilds from JSON, because the library's own pickle forgets `encode_special_tokens`."""
        return type(self), (self._model.to_str(), self._roles, self.ends, self.cleaner)


def _rename(definition: dict[str, Any], ids: Collection[int]) -> None:
    """Gives tokens of a definition names that no text has, in place; their ids stay."""
    names = {one["content"] for one in definition["added_tokens"] if one["id"] in ids}
    kept = [one for one in definition["added_tokens"] if one["id"] not in ids]
    rename = lambda name: f"\uffff{name}\uffff" if name in names else name
    model = definition["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {rename(name): index for name, index in model["vocab"].items()}
    else:  # unigrams, with scores
        model["vocab"] = [[rename(name), score] for name, score in model["vocab"]]
    if "merges" in model:
        pairs = (one.split(" ") if isinstance(one, str) else one for one in model["merges"])
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names]
    definition["added_tokens"] = kept


def _role_ids(vocabulary: Mapping[str, int], roles: Mapping[str, str]) -> dict[str, int | None]:
    """The id of every role, by the user's choice of token or by the usual names."""
    for role, token in roles.items():
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}; the roles are {', '.join(ROLES)}")
        if token not in vocabulary:
            raise ValueError(f"{role} should be {token!r}, which is not in the vocabulary")
    found: dict[str, int | None] = {}
    for role, names in ROLES.items():
        candidates = (roles[role],) if role in roles else names
        found[role] = next((vocabulary[name] for name in candidates if name in vocabulary), None)
    return found


def _required(ids: Mapping[str, int | None], role: str) -> int:
    """The id of a role that every tokenizer must fill. GPT-2's vocabulary has one token for bos and
    eos.
    """
    index = ids[role] if ids[role] is not None else ids["eos" if role == "bos" else "bos"]
    if index is None:
        raise ValueError(
            f"no {role} token found among {', '.join(ROLES[role])}; name it: "
            f"roles={{'{role}': '...'}}"
        )
    return index
