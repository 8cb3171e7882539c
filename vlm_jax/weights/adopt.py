"""Fine-tuning: a run that starts from a published checkpoint folder takes over what it says.

The workdir keeps the folder's small files, so that the run needs the folder only once, and can be
exported in its format.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_jax import trees
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights.folder import WeightsError, copy_small_files, open_tensors, read_config
from vlm_jax.weights.preprocessing import image_fields

SUBFOLDER = "published"


def is_published(init: Any) -> bool:
    """Whether config.init names a checkpoint folder of somebody else rather than a workdir."""
    folder = _folder(init)
    try:
        return folder is not None and "model_type" in read_config(folder)
    except WeightsError:
        return False  # a workdir, or no folder at all, of which whoever reads it will speak


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with what its init folder says filled in where the config says nothing:
    model, data.tokenizer and data.image. Unchanged without such a folder.
    """
    config = dict(config)
    if not is_published(config.get("init")):
        return config
    from vlm_jax.weights.pretrained import family_of  # late: most runs start from no such folder

    folder = _folder(config["init"])
    assert folder is not None
    published = read_config(folder)
    family = family_of(published)
    published = family.settle(published, open_tensors(folder).shapes)
    data = dict(config.get("data") or {})
    reader, statistics = image_fields(folder) if not data.get("image") else (data["image"], {})
    config["model"] = config.get("model") or _model(family, published, folder) | statistics
    data.setdefault("image", reader)
    data.setdefault("tokenizer", {"name": "published", "folder": str(folder)})
    return config | {"data": data}


def _model(family: Any, published: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """config.model of a folder's config.json, with what only its tokenizer tells."""
    from vlm_jax.weights.pretrained import with_image_token  # late, as above

    model = family.model(published)
    if family.image_word is None:
        return model
    return with_image_token(family, model, read_tokenizer(folder))


def keep(init: Any, workdir: Path) -> None:
    """Copy the folder's small files into the workdir, once."""
    folder, target = _folder(init), workdir / SUBFOLDER
    if folder is None or target.exists():
        return
    partial = target.with_name(SUBFOLDER + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    copy_small_files(folder, partial)
    partial.rename(target)


def parameters(init: Any, collection: str = "params") -> dict[str, Any]:
    """The folder's parameters (or "batch_stats") by path, as `checkpoint.load_params` gives those
    of a workdir.
    """
    from vlm_jax.weights.pretrained import read_folder  # late, as above

    folder = _folder(init)
    if folder is None:
        raise WeightsError(f"config.init={init!r} names no folder")
    variables = read_folder(folder, place=lambda path, array: array).variables
    return trees.flatten(variables.get(collection, {}))


def parts(folders: Mapping[str, Any], entry: str = "params") -> dict[str, Any]:
    """What each folder has for its part of the model, "vision", "text" or "decoder", by path.

    entry: "params" or "batch_stats". WeightsError for a folder without such a part.
    """
    found: dict[str, Any] = {}
    for part, folder in folders.items():
        loaded = parameters(folder, entry)
        own = {path: array for path, array in loaded.items() if path.startswith(f"{part}/")}
        if entry == "params" and not own:
            known = ", ".join(sorted({path.split("/")[0] for path in loaded}))
            raise WeightsError(f"config.init.parts: {folder} has no {part}, only {known}")
        found |= own
    return found


def _folder(init: Any) -> Path | None:
    name = init.get("workdir") if isinstance(init, Mapping) else init
    return Path(name).expanduser() if name else None
