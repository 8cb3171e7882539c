"""easy-VQA: 5,000 pictures of one coloured shape each, 48,248 questions, 13 answers (PyPI
`easy-vqa`, MIT).

The package's files are read where pip put them; its code is never imported.
"""

import importlib.util
import json
from pathlib import Path

from vlm_jax.data.schema import DataError, Example, inside

INSTALL = "pip install --no-deps easy-vqa"
"""What the user must run once."""


class EasyVQA:
    """One example per picture, a PNG path, 64 x 64: 4,000 with 38,575 questions in split "train",
    1,000 with 9,673 in "test".

    A question's type is "yes/no" or "open". Answering from the question alone already reaches 67.0
    % overall (82.5 % on yes/no, 23.3 % on open questions), so report the open ones apart. folder:
    the package's `data` folder, found by itself where None. Raises DataError if the package is
    missing (with the command that installs it) or incomplete, ValueError for another split.
    """

    def __init__(self, split: str = "train", folder: str | None = None) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"easy-VQA has the splits train and test, not {split!r}")
        self.name = f"easy_vqa/{split}"
        self._folder = (Path(folder) if folder else _installed()) / split
        path = self._folder / "questions.json"
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            asked: dict[int, list[tuple[str, str]]] = {}
            for question, answer, image in rows:
                asked.setdefault(int(image), []).append((str(question), str(answer)))
            self._rows = sorted(asked.items())
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}); {INSTALL} --force-reinstall"
            ) from None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        image, asked = self._rows[index]
        kind = lambda answer: "yes/no" if answer in ("yes", "no") else "open"
        return {
            "id": str(image),
            "image": str(self._folder / "images" / f"{image}.png"),
            "captions": [],
            "questions": [{"question": q, "answers": [a], "type": kind(a)} for q, a in asked],
        }


def _installed() -> Path:
    """The data folder of the installed package."""
    package = importlib.util.find_spec("easy_vqa")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"easy-VQA is not installed; run: {INSTALL}")
    return Path(package.submodule_search_locations[0]) / "data"
