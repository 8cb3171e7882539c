"""The tokenizer of a published checkpoint folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from vlm_jax.tokenizers.classes import CLASSES, MODEL_TYPES, Class
from vlm_jax.tokenizers.sentencepiece import CONTROL, USER_DEFINED, read_pieces
from vlm_jax.tokenizers.tokenizer import Tokenizer
from vlm_jax.weights.folder import read_config, read_json

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Keys of special tokens in the order in which those that the vocabulary lacks get their ids."""

GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
"""Names that say nothing of a class."""

MORE = ("extra_special_tokens", "additional_special_tokens")

ROLES = {
    "bos": ("cls_token", "bos_token"),
    "eos": ("sep_token", "eos_token"),
    "unknown": ("unk_token",),
    "mask": ("mask_token",),
    "pad": ("pad_token",),
}
"""Our roles by the keys that may name them; the last one counts."""


def read_tokenizer(folder: str | Path, ends: Sequence[int] | None = None) -> Tokenizer:
    """The folder's tokenizer, with its special tokens in their roles: of tokenizer.json, or else
    made of its vocabulary files (vocab.txt, vocab.json with merges.txt, tokenizer.model or
    spiece.model) as the class does that the folder names.

    ends: ids that end a text (None: eos alone). ValueError if there is no vocabulary, or none of a
    class that is known.
    """
    folder = Path(folder)
    config = _config(folder)
    found = _read(folder, config, ends)
    kind = str(config.get("model_type"))
    return found.cleaned("open_clip") if kind.startswith("open_clip") else found


def _read(folder: Path, config: Mapping[str, Any], ends: Sequence[int] | None) -> Tokenizer:
    """What the folder's files make of it."""
    path, options = folder / "tokenizer.json", _options(folder)
    if path.is_file():
        found = Tokenizer.load(path, _roles(options), ends)
        # SigLIP 2's class sees to small letters, whether the file does or not.
        return found.lowered() if "Siglip2Tokenizer" in _names(folder, config, options) else found
    name, kind, files = _class(folder, config, options)
    options = dict(kind.tokens) | options
    try:
        model = kind.build(files, options)
        _add_tokens(folder, model, kind, options, files[0])
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{folder}: {name} cannot be made of its files: {error}") from None
    _frame(model, kind, options)
    return Tokenizer(model.to_str(), _roles(options), ends)


def _options(folder: Path) -> dict[str, Any]:
    """What special_tokens_map.json and tokenizer_config.json say."""
    return read_json(folder, "special_tokens_map.json") | read_json(folder, "tokenizer_config.json")


def _roles(options: Mapping[str, Any]) -> dict[str, str]:
    """Token names by role."""
    found = {}
    for role, keys in ROLES.items():
        for key in keys:
            if options.get(key):
                found[role] = _token(options[key]).content
    return found


def _names(folder: Path, config: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """The classes that a folder names, or that its config.json means; the first is to be taken."""
    if config.get("model_type") == "siglip2":  # whose folders may name Gemma's
        return [MODEL_TYPES["siglip2"]]
    sections = [config, dict(config.get("text_config") or {})]
    named = [part.get("tokenizer_class") for part in (options, *sections)]
    names = [str(name).removesuffix("Fast") for name in named if name]
    names = [name for name in names if name not in GENERIC][:1]
    if not names:
        meant = [MODEL_TYPES.get(part.get("model_type", "")) for part in sections]
        names = [name for name in meant if name]
        names = names or (["BertTokenizer"] if (folder / "vocab.txt").is_file() else [""])
    return names


def _class(
    folder: Path, config: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[str, Class, list[Path]]:
    """The class that a folder names, or that its config.json means, and its files."""
    names = _names(folder, config, options)
    for name in names:
        if name in CLASSES and (files := CLASSES[name].found(folder)):
            return name, CLASSES[name], files
    here = sorted(p.name for p in folder.glob("*") if p.suffix in (".model", ".txt"))
    hint = f", only {', '.join(here)}" if here else ""
    raise ValueError(
        f"{folder} holds no tokenizer.json{hint}: write one with the reference library's "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...), or name a tokenizer_class in "
        f"tokenizer_config.json; {'; '.join(map(_wanted, names))}"
    )


def _config(folder: Path) -> dict[str, Any]:
    """The folder's config.json, or what stands for it; {} if nothing does."""
    others = any(folder.glob("*.npz")) or (folder / "open_clip_config.json").is_file()
    return read_config(folder) if others else read_json(folder, "config.json")


def _wanted(name: str) -> str:
    """Which files a class reads, if it is known."""
    if name not in CLASSES:
        return f"tokenizer_class={name!r} is not supported, known are {', '.join(CLASSES)}"
    return f"{name} reads " + " and ".join(" or ".join(names) for names in CLASSES[name].files)


def _token(given: Any, **properties: Any) -> AddedToken:
    """A token that a file gives by its text or with its properties."""
    if isinstance(given, Mapping):
        kept = {key: value for key, value in given.items() if not key.startswith("__")}
        properties = {**properties, **kept}
        return AddedToken(properties.pop("content"), **properties)
    return AddedToken(str(given), **properties)


def _added(folder: Path, options: Mapping[str, Any], special: set[str]) -> dict[int, AddedToken]:
    """The tokens that a folder added to its vocabulary, by id."""
    listed = options.get("added_tokens_decoder")
    if listed is not None:
        return {int(index): _token(token) for index, token in listed.items()}
    return {
        index: AddedToken(text, special=text in special, normalized=text not in special)
        for text, index in read_json(folder, "added_tokens.json").items()
    }


def _add_tokens(
    folder: Path, model: tokenizers.Tokenizer, kind: Class, options: Mapping[str, Any], path: Path
) -> None:
    """Makes the folder's added and special tokens known: those of the vocabulary keep their ids,
    others follow it. ValueError where that is not the id that the folder says.
    """
    more = [token for key in MORE for token in _listed(options.get(key))]
    named = [_token(options[key], special=True) for key in NAMED if options.get(key)]
    names = {token.content for token in named}
    added = _added(folder, options, names | {_token(token).content for token in more})
    for index, token in sorted(added.items()):
        token.special = token.special or token.content in names
        model.add_tokens([token])
        if (got := model.token_to_id(token.content)) != index:
            raise ValueError(f"added token {token.content!r} should have id {index}, not {got}")
    for token in (*more, *kind.more(options)):
        named.append(_token(token, special=True))
    for text, _, role in read_pieces(path).pieces if path.suffix == ".model" else ():
        if role in (CONTROL, USER_DEFINED):
            named.append(AddedToken(text, special=role == CONTROL, normalized=False))
    known = {token.content for token in added.values()}
    for token in named:
        if token.content not in known:
            model.add_tokens([token])
        known.add(token.content)


def _listed(given: Any) -> list[Any]:
    """Further special tokens, which files list or name."""
    return list(given.values()) if isinstance(given, Mapping) else list(given or ())


def _frame(model: tokenizers.Tokenizer, kind: Class, options: Mapping[str, Any]) -> None:
    """The special tokens around a text as the post-processor, if there are any."""
    keys = kind.around or tuple(
        key if options.get(f"add_{key}") else "" for key in ("bos_token", "eos_token")
    )
    before, after = (_token(options[key]).content if options.get(key) else "" for key in keys)
    if not before and not after:
        return
    names = sorted({name for name in (before, after) if name})
    template = [part for part in (before, "$A", after) if part]
    model.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, model.token_to_id(name)) for name in names]
    )
