"""Emoji drawings of several vendors with their names: real artwork, small enough to fetch in a
minute.

The protocol trains on one vendor's drawings and tests on another's. Flags and components are left
out, which leaves 1,644 concepts. A concept's bucket is the SHA-1 of its hexcode modulo 10: bucket 3
is "unseen", bucket 7 is reserved and never given out, the others are "seen". Fetch once with
`python -m vlm_jax.data.prepare emoji`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_jax.data.cache import cache_folder
from vlm_jax.data.schema import DataError, Example, inside

UNSEEN, RESERVED = 3, 7
"""Buckets: held-out concepts, and concepts that no one trains, tunes or evaluates on."""

VENDORS = ("openmoji", "noto")
"""Whose drawings there are."""

_GROUPS_LEFT_OUT = ("component", "flags")


class Emoji:
    """One example per concept: a PNG on white, its English name as `label`, its names as captions.

    vendor: one of VENDORS. split: "seen" (1,316 concepts), "unseen" (171) or "all" of these.
    holdout: what is held out, "concept" (by bucket; 21 of the 171 have a seen twin of another
    gender) or "subgroup" (all concepts of a subgroup together, by the bucket of its name; the
    harder test). languages: whose names to give, as in "en", "de", "zh". texts: which captions each
    language adds: "label" is the name, "tags" the name and its keywords, "cat face, cat, pet".
    size: side of the image in pixels, as prepared. Examples also have `group` and `subgroup`.
    Raises DataError naming the command if the set is not prepared, ValueError for a bad argument.
    """

    def __init__(
        self,
        vendor: str = "openmoji",
        split: str = "seen",
        size: int = 64,
        holdout: str = "concept",
        languages: Sequence[str] = ("en",),
        texts: Sequence[str] = ("label", "tags"),
    ) -> None:
        _check("vendor", vendor, VENDORS)
        _check("split", split, ("seen", "unseen", "all"))
        _check("holdout", holdout, _HOLDOUTS)
        _check_all("texts", texts, _TEXTS)
        self.name = f"emoji/{vendor}/{split}" + ("" if holdout == "concept" else f"/{holdout}")
        self._folder = image_folder(vendor, size)
        concepts = _prepared(self._folder, vendor, size)
        _check_all("languages", languages, concepts[0]["names"])
        held_out = _HOLDOUTS[holdout]
        self._concepts = [
            concept
            for concept in concepts
            if bucket(concept["hexcode"]) != RESERVED
            and (split == "all" or held_out(concept) == (split == "unseen"))
        ]
        self._languages, self._texts = tuple(languages), tuple(texts)

    def __len__(self) -> int:
        return len(self._concepts)

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        concept = self._concepts[index]
        captions = [
            _TEXTS[text](concept["names"][language])
            for language in self._languages
            for text in self._texts
        ]
        example: Any = {
            "id": concept["hexcode"],
            "image": str(self._folder / f"{concept['hexcode']}.png"),
            "captions": captions,
            "questions": [],
            "label": concept["names"]["en"]["label"],
            "group": concept["group"],
            "subgroup": concept["subgroup"],
        }
        return example


def concepts_file() -> Path:
    """The JSON list of concepts: hexcode, group, subgroup and names {language: {label, tags}}."""
    return cache_folder() / "emoji" / "concepts.json"


def image_folder(vendor: str, size: int) -> Path:
    """The folder of a vendor's images; it holds `complete.json` once all of them are there."""
    return cache_folder() / "emoji" / f"{vendor}-{size}"


def hexcode(text: str) -> str:
    """The key that vendors share: code points in upper case without FE0F, "1F469-200D-2695"."""
    return "-".join(point for point in text.upper().split("-") if point != "FE0F")


def bucket(text: str) -> int:
    """The bucket of a hexcode or a subgroup name, in [0, 10)."""
    return int(hashlib.sha1(text.encode()).hexdigest(), 16) % 10


def select(
    names: Mapping[str, Sequence[Mapping[str, Any]]], meta: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The protocol's concepts, in Unicode order, out of emojibase's tables.

    names: data.json by language, "en" among them. meta: meta/groups.json. Flags, components and
    bucket 7 are left out. Raises DataError if a concept has no name in some language.
    """
    by_language = {
        language: {hexcode(row["hexcode"]): row for row in rows} for language, rows in names.items()
    }
    concepts = []
    for row in sorted(names["en"], key=lambda row: row.get("order", 0)):
        key, group = hexcode(row["hexcode"]), meta["groups"].get(str(row.get("group")))
        if group is None or group in _GROUPS_LEFT_OUT or bucket(key) == RESERVED:
            continue
        missing = [language for language, rows in by_language.items() if key not in rows]
        if missing:
            raise DataError(f"emoji {key} has no name in {', '.join(missing)}")
        concept = {
            "hexcode": key,
            "group": group,
            "subgroup": meta["subgroups"][str(row["subgroup"])],
            "names": {
                language: {"label": rows[key]["label"], "tags": rows[key].get("tags", [])}
                for language, rows in by_language.items()
            },
        }
        concepts.append(concept)
    return concepts


def _with_tags(name: Mapping[str, Any]) -> str:
    """The name and the keywords that do not repeat it."""
    return ", ".join(dict.fromkeys([name["label"], *name["tags"]]))


_TEXTS = {"label": lambda name: name["label"], "tags": _with_tags}
_HOLDOUTS = {
    "concept": lambda concept: bucket(concept["hexcode"]) == UNSEEN,
    "subgroup": lambda concept: bucket(concept["subgroup"]) == UNSEEN,
}


def _check(key: str, value: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    """Raises ValueError unless the value is known."""
    if value not in known:
        raise ValueError(f"emoji: {key} has {value!r}; known: {', '.join(known)}")


def _check_all(key: str, values: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raises ValueError unless the values are a list of known ones."""
    if isinstance(values, str) or not values:
        raise ValueError(f"emoji: {key} is a list of one or more of: {', '.join(known)}")
    for value in values:
        _check(key, value, known)


def _prepared(folder: Path, vendor: str, size: int) -> list[dict[str, Any]]:
    """The concepts, once both they and the images are known to be there."""
    path = concepts_file()
    if not (path.is_file() and (folder / "complete.json").is_file()):
        raise DataError(
            f"the emoji of {vendor} at {size} px are not in {cache_folder()}; run: "
            f"python -m vlm_jax.data.prepare emoji --vendor {vendor} --size {size}"
        )
    return json.loads(path.read_text(encoding="utf-8"))
