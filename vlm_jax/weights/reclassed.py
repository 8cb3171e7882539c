"""A network that was trained with other heads than its folder's class has, as the class of the same
family that it now is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax

from vlm_jax.models.heads import HEADS
from vlm_jax.weights.adopt import BODY
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import Pretrained, shapes_of

PARTS = (*BODY, *(f"{name}_head" for name in HEADS))

LEARNING = ("dropout", "drop_path", "remat", "dtype", "name", "parent")
"""Fields of a module that change nothing in what a checkpoint means."""

TOLD = ("prefix", "has_pooler")
"""Keys that a folder's tensors told, which are another class's differently."""

LINEAR, OWN = "classify_head", "head"
"""Where a classifier lies that a task added, and one that a vision encoder ends in."""


def reclassed(found: Pretrained, names: Sequence[str] = ()) -> Pretrained | None:
    """The same network under the config.json of the class that it is, or None if its family has no
    such class.

    names: of its classes, written as id2label, or as timm's label_names, where there are as many.
    """
    for name, key in found.family.classes.items():
        config = {k: x for k, x in found.config.items() if k not in TOLD}
        config |= _counted(found, key, names) | ({"architectures": [name]} if name else {})
        try:
            model, shapes = shapes_of(found.family, config)
        except WeightsError:
            continue  # this class lacks a key
        theirs = jax.tree.map(lambda leaf: leaf.shape, dict(shapes))
        variables = _moved(found.variables, theirs)
        if jax.tree.map(lambda leaf: leaf.shape, variables) == theirs and _same(found.model, model):
            return replace(found, config=config, model=model, variables=variables)
    return None


def _counted(found: Pretrained, key: str, names: Sequence[str]) -> dict[str, Any]:
    """The number of classes and their names as entries of config.json; nothing without any."""
    head = found.model.classify_head or found.model.vision
    count = getattr(head, "classes", None)
    if count is None:
        return {}
    if key == "num_classes":
        return {key: count} | ({"label_names": list(names)} if len(names) == count else {})
    if key != "num_labels":
        return {key: count}
    names = list(names) if len(names) == count else [f"LABEL_{i}" for i in range(count)]
    known = {str(i): name for i, name in enumerate(names)}
    return {"id2label": known, "label2id": {name: int(i) for i, name in known.items()}, key: count}


def _moved(variables: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The variables, a linear classifier's where a vision encoder of the class has it."""
    params = dict(variables["params"])
    wanted = OWN in theirs["params"].get("vision", {}) and LINEAR not in theirs["params"]
    if wanted and set(params.get(LINEAR, ())) == {"out"}:
        params["vision"] = {**params["vision"], OWN: params.pop(LINEAR)["out"]}
    return {**variables, "params": params}


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two networks of the same parameters compute the same."""
    seen = getattr(theirs.vision, "classes", None)
    for part in PARTS:
        a, b = (getattr(model, part) for model in (ours, theirs))
        if part == LINEAR and seen is not None:
            continue  # moved, where the parameters fit
        if type(a) is not type(b) or (is_dataclass(a) and _fields(a) != _fields(b)):
            return False
    return True


def _fields(module: Any) -> dict[str, Any]:
    known = (field.name for field in fields(module) if field.init)
    return {name: getattr(module, name) for name in known if name not in (*LEARNING, "classes")}
