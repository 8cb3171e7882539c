"""Tux Paint's stamps: 950 captioned pictures with names in up to 57 languages, a test set (GPL-2).

    apt-get download tuxpaint-stamps-default
    dpkg -x tuxpaint-stamps-default_*.deb ~/.cache/vlm_jax/stamps

About 300 are photographs cut out on transparent ground, the rest drawings. Too small to train on;
many share a caption with another, which scoring has to count as right.
"""

from pathlib import Path
from typing import Any

from vlm_jax.data.cache import cache_folder
from vlm_jax.data.schema import DataError, Example, inside

COMMANDS = "apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb"


class Stamps:
    """One example per picture with a caption in this language; ids are paths without suffix.

    language: "en", or a code as in the package, "de", "zh_cn". folder: where the package was
    unpacked (None: `stamps` in the cache folder). size: side of drawings that have no pixels of
    their own (SVG), which need resvg-py. DataError, with the commands, if there are no stamps.
    """

    def __init__(self, language: str = "en", folder: str | None = None, size: int = 224) -> None:
        self.name, self._size = f"stamps/{language}", size
        self._root = Path(folder).expanduser() if folder else cache_folder() / "stamps"
        self._rows = []
        for path in sorted(self._root.rglob("stamps/**/*.txt")):
            caption = names(path.read_text(encoding="utf-8", errors="replace")).get(language)
            picture = next(filter(Path.is_file, map(path.with_suffix, (".png", ".svg"))), None)
            if caption and picture:
                self._rows.append((picture, caption))
        if not self._rows:
            raise DataError(
                f"{self._root} holds no stamps named in {language!r}; run: {COMMANDS} {self._root}"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        path, caption = self._rows[index]
        image: Any = path if path.suffix == ".png" else lambda: drawn(path, self._size)
        key = str(path.relative_to(self._root).with_suffix(""))
        return {"id": key, "image": image, "captions": [caption], "questions": []}


def names(text: str) -> dict[str, str]:
    """Caption by language of a stamp's text file: English in the first line, then "de.utf8=..."."""
    first, *others = text.splitlines() or [""]
    found = {"en": first.strip()}
    for line in others:
        code, separator, caption = line.partition(".utf8=")
        if separator and caption.strip():
            found[code.strip().lower()] = caption.strip()
    return {code: caption for code, caption in found.items() if caption}


def drawn(path: Path, size: int) -> bytes:
    """An SVG as PNG on white. DataError without resvg-py, or for a damaged file."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise DataError("drawing SVG needs resvg; run: pip install resvg-py") from None
    try:
        options: dict[str, Any] = {"width": size, "background": "white"}
        return bytes(svg_to_bytes(path.read_text("utf-8"), skip_system_fonts=True, **options))
    except ValueError as error:
        raise DataError(f"{path} cannot be drawn: {error}") from None
