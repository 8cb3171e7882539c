"""Fine-tuning: a run that starts from a published checkpoint folder takes over what it says.

The workdir keeps the folder's small files, so that the run needs the folder only once, and can be
exported in its format.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_jax import trees
from vlm_jax.tasks import TASKS
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights.folder import WeightsError, copy_small_files, open_tensors, read_config

SUBFOLDER = "published"

BODY = ("vision", "text", "fusion", "decoder")
"""The parts of a model that are no heads."""


def is_published(init: Any) -> bool:
    """Whether config.init names a checkpoint folder of somebody else rather than a workdir."""
    folder = _folder(init)
    try:
        named = {"model_type", "architecture"}  # the second by timm
        return folder is not None and bool(named & read_config(folder).keys())
    except WeightsError:
        return False  # a workdir, or no folder at all, of which whoever reads it will speak


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with what its init folder says filled in where the config says nothing:
    model, data.tokenizer and data.image. Unchanged without such a folder.

    Of a model that comes from the folder the heads are those that the tasks ask for: see `headed`.
    """
    config = dict(config)
    if not is_published(config.get("init")):
        return config
    from vlm_jax.weights import setups  # late: most runs start from no such folder
    from vlm_jax.weights.pretrained import family_of

    folder = _folder(config["init"])
    assert folder is not None
    published = read_config(folder)
    family = family_of(published)
    published = family.settle(published, open_tensors(folder).shapes)
    data = dict(config.get("data") or {})
    try:
        reader, statistics = setups.reader_of(family, published, folder)
    except WeightsError:
        if not data.get("image"):
            raise
        reader, statistics = {}, {}  # pictures are read as the config says
    data["image"] = data.get("image") or reader
    if not config.get("model"):
        tasks = config.get("tasks") or {}
        model, idle = without_pooler(family, published, _model(family, published, folder), tasks)
        model, skip = headed(model, tasks, usual_head(family, published, model, tasks))
        config["model"] = model | statistics
        config["init"] = _skipping(config["init"], idle + skip)
    if setups.reads_texts(family.model(published)):
        data.setdefault("tokenizer", {"name": "published", "folder": str(folder)})
    return config | {"data": data}


def without_pooler(
    family: Any, published: Mapping[str, Any], model: Mapping[str, Any], tasks: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The model as the family's class for classifying pictures has it, whose classes come from the
    class token itself (ViT), and patterns of the parameters that are not taken over.
    """
    vision = dict(model.get("vision") or {})
    if not vision.get("pooler") or "text" in model or not _kinds(tasks) & {"classification"}:
        return dict(model), []
    bare = vision | dict(pooler=None, pooler_width=None)
    for name in family.classes:
        other = dict(family.model(dict(published) | {"architectures": [name]})["vision"])
        if other.pop("classes", None) and other == bare:
            return dict(model) | {"vision": bare}, ["vision/pooler"]
    return dict(model), []


def _kinds(tasks: Mapping[str, Any]) -> set[str]:
    """The tasks' names, whatever they are called here."""
    return {dict(section or {}).get("name", name) for name, section in tasks.items()}


def usual_head(
    family: Any, published: Mapping[str, Any], model: Mapping[str, Any], tasks: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of the classifier that the family's class for one of the tasks has on the same network
    as `model`, but for its classes; none if there is no such class.
    """
    same = lambda other: all(model.get(part) == other.get(part) for part in BODY)
    wanted = _kinds(tasks)
    for name in family.classes:
        described = dict(published) | {"architectures": [name]}
        try:
            other = family.model(described)
        except WeightsError:
            continue  # the folder lacks what this class needs
        if wanted & family.tasks(described).keys() and other.get("classify") and same(other):
            return {key: x for key, x in other["classify"].items() if key != "classes"}
    return {}


def headed(
    model: Mapping[str, Any], tasks: Mapping[str, Any], usual: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """A folder's model with the heads that tasks learn with, and patterns of the parameters that
    are not taken over.

    A classifier is kept for tasks that list as many classes; otherwise its last layer begins anew,
    with as many as the task has. Heads that no task asks for are left out, and those that are
    missing are made: class scores, with the fields `usual`, and words where there is a text
    encoder.
    """
    model, skip = dict(model), []
    sections = {name: dict(section or {}) for name, section in tasks.items()}
    kinds = {name: section.get("name", name) for name, section in sections.items()}
    asked = {TASKS[kind].head for kind in kinds.values() if kind in TASKS}
    if any(section.get("match") is not None for section in sections.values()):
        asked |= {"classify", "reconstruct"} & model.keys()
    for head, method in (("reconstruct", "reconstruct"), ("regions", "label_regions")):
        if head in model and method not in asked:
            del model[head]
            skip.append(f"{head}_head")
    if "reconstruct" in asked and "reconstruct" not in model and model.get("text"):
        match = "fusion" in model
        model["reconstruct"] = dict(vocab=model["text"]["vocab"], tied=True, match=match)
        skip.append("reconstruct_head")
    given = next((s for n, s in sections.items() if kinds[n] in ("vqa", "classification")), None)
    return _classified(model, given, "classify" in asked, skip, usual or {})


def _classified(
    model: dict[str, Any],
    task: Mapping[str, Any] | None,
    asked: bool,
    skip: list[str],
    usual: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """The model with a classifier for a task, or without one if none is asked for."""
    listed = None if task is None else task.get("answers", task.get("labels"))
    count = len(listed) if isinstance(listed, list | tuple) else None
    vision, head = dict(model.get("vision") or {}), dict(model.get("classify") or {})
    if vision.get("classes") and (count != vision["classes"] or "fusion" in model):
        model["vision"] = {key: x for key, x in vision.items() if key != "classes"}
        skip.append("vision/head")
    elif vision.get("classes"):
        return model, skip
    if head and not asked:
        del model["classify"]
        return model, [*skip, "classify_head"]
    if not asked or task is None or (head and count == head["classes"]):
        return model, skip
    model["classify"] = {key: x for key, x in (head or usual).items() if key != "classes"}
    return model, [*skip, "classify_head/out" if head else "classify_head"]


def _skipping(init: Any, skip: list[str]) -> Any:
    """config.init that leaves out these parameters, too."""
    if not skip:
        return init
    given = dict(init) if isinstance(init, Mapping) else {"workdir": init}
    return given | {"skip": [*given.get("skip", ()), *skip]}


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
