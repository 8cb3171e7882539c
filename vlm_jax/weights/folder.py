"""What lies in a checkpoint folder: its JSON files, and its tensors, read one slice at a time."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
"""Files that a folder may hold instead of safetensors; none of them is ever opened."""


SMALL_FILES = (".json", ".txt", ".model", ".jinja")
"""Suffixes of what stands beside the weights."""


class WeightsError(ValueError):
    """A checkpoint that cannot be used as it is. The message names files and tensors, and says what
    to do.
    """


class Tensors:
    """The named tensors of one or several .safetensors files; only headers are read beforehand.

    files: paths. WeightsError for a damaged file or a name that is in two of them.
    """

    def __init__(self, files: list[Path]):
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in files:
            try:
                file = safe_open(path, "np")
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{path} cannot be read, download it again: {error}") from None
            for name in file.keys():
                if name in self._files:
                    raise WeightsError(f"{path}: tensor {name} is in another file too")
                self._files[name] = file
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def dtype(self, name: str) -> np.dtype:
        """The type that a tensor is stored in."""
        return (
            self._files[name].get_slice(name)[:0].dtype if self.shapes[name] else self[name].dtype
        )


class Arrays(dict):
    """Tensors that are in memory already, such as those of an .npz, seen in the same way."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape."""
        return {name: np.shape(value) for name, value in self.items()}

    def dtype(self, name: str) -> np.dtype:
        """The type of a tensor."""
        return self[name].dtype


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config.json of a folder, or what stands for it: open_clip's open_clip_config.json, or an
    .npz of big_vision, which tells everything itself. WeightsError if there is none of them, or
    what there is cannot be read.
    """
    folder = Path(folder)
    own, other = folder / "config.json", read_json(folder, "open_clip_config.json")
    if not own.is_file() and other:
        captions = "multimodal_cfg" in (other.get("model_cfg") or {})
        return other | {"model_type": "open_clip_coca" if captions else "open_clip"}
    archives = [folder] if folder.suffix == ".npz" else list(folder.glob("*.npz"))
    if not own.is_file() and len(archives) == 1:
        names = _of_npz(archives[0], lambda archive: archive.files)
        captions = any("/LogitsDense/" in name for name in names)
        return {"model_type": "cappa" if captions else "big_vision"}
    return read_json(folder, "config.json", required=True) | _sentence_pooling(folder)


def _sentence_pooling(folder: Path) -> dict[str, str]:
    """How a folder of the sentence-transformers library makes one vector of a text, as the key
    sentence_pooling, "mean" or "first"; {} for other folders.
    """
    given = read_json(folder, "1_Pooling/config.json")
    chosen = [key for key, value in given.items() if key.startswith("pooling_mode") and value]
    if not chosen:
        return {}
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    if len(chosen) > 1 or chosen[0] not in known:
        raise WeightsError(f"{folder}/1_Pooling/config.json: {', '.join(chosen)} is not supported")
    return {"sentence_pooling": known[chosen[0]]}


def read_json(folder: str | Path, name: str, required: bool = False) -> dict[str, Any]:
    """A JSON object of a folder; {} if there is no such file and it is not required.

    WeightsError if it is missing and required, or is not a JSON object.
    """
    path = Path(folder) / name
    if not path.is_file():
        if required:
            raise WeightsError(f"{path} is missing: this is no checkpoint folder")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {type(content).__name__}, not an object")
    return content


def copy_small_files(source: str | Path, target: Path) -> None:
    """All of a folder but its weights: config, tokenizer, preprocessor and template files."""
    for path in sorted(Path(source).glob("*")):
        if path.suffix in SMALL_FILES and "safetensors" not in path.name:
            shutil.copyfile(path, target / path.name)


def open_tensors(folder: str | Path) -> Tensors | Arrays:
    """The tensors of a folder: of model.safetensors, of the shards that an index lists, of its
    only .safetensors or .npz file, or of such an .npz itself. WeightsError if there is none, or a
    shard is missing.
    """
    folder = Path(folder)
    if folder.suffix == ".npz" and folder.is_file():
        return read_npz(folder)
    index = read_json(folder, "model.safetensors.index.json")
    if index:
        shards = sorted(set(_weight_map(folder, index).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise WeightsError(f"{folder} lacks {', '.join(missing)}, which its index lists")
        return Tensors([folder / name for name in shards])
    if (folder / "model.safetensors").is_file():
        return Tensors([folder / "model.safetensors"])
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return Tensors(found)
    if found:
        names = ", ".join(path.name for path in found)
        raise WeightsError(f"{folder} holds {names} and no index: keep one of them")
    archives = list(folder.glob("*.npz"))
    if len(archives) == 1:
        return read_npz(archives[0])
    raise WeightsError(_no_tensors(folder))


def read_npz(path: Path) -> Arrays:
    """The arrays of an .npz file, none of them pickled; NumPy stores bfloat16 as two void bytes."""
    arrays = _of_npz(path, lambda archive: {name: archive[name] for name in archive.files})
    half = np.dtype("V2")
    return Arrays(
        {n: x.view(ml_dtypes.bfloat16) if x.dtype == half else x for n, x in arrays.items()}
    )


def _of_npz(path: Path, read: Callable[[Any], Any]) -> Any:
    """What `read` makes of the opened file. WeightsError if that fails."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return read(archive)
    except (OSError, ValueError, BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None


def _weight_map(folder: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """Tensor to file; names of files, not paths to elsewhere."""
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in listed.values()
    ):
        raise WeightsError(f"{folder}/model.safetensors.index.json: weight_map must name files")
    return listed


def _no_tensors(folder: Path) -> str:
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if not pickled:
        return f"{folder} holds no .safetensors file"
    return (
        f"{folder} holds its weights only as {', '.join(pickled)}, a format that can run programs "
        "when it is opened and is therefore refused. Where you trust it, convert it with the "
        "library it was made with, for example in PyTorch: safetensors.torch.save_file("
        f"torch.load('{pickled[0]}', weights_only=True), 'model.safetensors')"
    )
