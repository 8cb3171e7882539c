"""The tokenizer of a published checkpoint folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_jax.tokenizers.tokenizer import Tokenizer


def read_tokenizer(folder: str | Path, ends: Sequence[int] | None = None) -> Tokenizer:
    """The folder's tokenizer, with its special tokens in their roles.

    ends: ids that end a text (None: eos alone). ValueError if there is no tokenizer.json.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        others = sorted(p.name for p in Path(folder).glob("*") if p.suffix in (".model", ".txt"))
        hint = f", only {', '.join(others)}" if others else ""
        raise ValueError(
            f"{folder} holds no tokenizer.json{hint}: write one with the reference library's "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return Tokenizer.load(path, _roles(Path(folder)), ends)


def _roles(folder: Path) -> dict[str, str]:
    """Token names by role, as tokenizer_config.json or special_tokens_map.json give them."""
    named: dict[str, Any] = {}
    for path in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        if path.is_file():
            named |= json.loads(path.read_text(encoding="utf-8"))
    keys = {"bos": ("cls_token", "bos_token"), "eos": ("sep_token", "eos_token")}
    keys |= {"unknown": ("unk_token",), "mask": ("mask_token",), "pad": ("pad_token",)}
    roles = {}
    for role, names in keys.items():
        for name in names:
            value = named.get(name)
            value = value.get("content") if isinstance(value, Mapping) else value
            if value:
                roles[role] = value
    return roles
