"""Parity with references that keep a state dict and no folder: torchvision and open_clip.

They are installed without their dependencies, see tests/torchvision_operators.py.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from tests.weights import objectives, parity
from vlm_jax.weights.pretrained import Pretrained, read_folder, write_folder

COUNTER = "num_batches_tracked"
"""Of batch normalisation: how often it was trained, which no output depends on."""


def state_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Tensors by name, as a file holds them."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def shapes_of(make: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of what a file holds of the network that `make` returns, without making it."""
    with torch.device("meta"):
        tensors = make().state_dict()
    return {n: tuple(x.shape) for n, x in tensors.items() if not n.endswith(COUNTER)}


def check(
    model: torch.nn.Module,
    config: dict[str, Any],
    inputs: dict[str, np.ndarray],
    folder: Path,
    ask: Any,
    names: tuple[str, ...] = ("logits",),
    files: tuple[str, str] = ("config.json", "model.safetensors"),
    call: str = "forward",
) -> Pretrained:
    """`parity.check` for a model that is saved as a state dict. files: of the folder."""
    saved = folder / "saved"
    saved.mkdir()
    (saved / files[0]).write_text(json.dumps(config))
    save_file(state_of(model), saved / files[1])
    loaded = read_folder(saved)
    expected = parity.outputs(model, inputs, ask, names)
    parity.compare_with_gradients(model, loaded, call, inputs, ask, names)
    write_folder(loaded, folder / "exported")
    assert (folder / "exported" / files[0]).is_file()
    written = load_file(folder / "exported" / files[1])
    before = state_of(model)
    for name, array in written.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    again = parity.randomise(copy.deepcopy(model), seed=1)
    lacks = again.load_state_dict(parity.tensors_of(written), strict=False)
    assert not lacks.unexpected_keys and all(name.endswith(COUNTER) for name in lacks.missing_keys)
    parity.compare(parity.outputs(again, inputs, ask, names), expected, 1e-7, least=1.0)
    return loaded


def compare_classes(model: torch.nn.Module, loaded: Pretrained, inputs: Any) -> None:
    """torch's cross-entropy of the classes 3 and 1, and its gradients."""
    given = inputs | dict(labels=np.array([3, 1]))
    theirs = lambda model, given: torch.nn.functional.cross_entropy(
        model(given["pixel_values"]), given["labels"]
    )
    parity.compare_loss(model, loaded, given, objectives.chosen, theirs)


def logits(model: torch.nn.Module, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a classifier returns."""
    return {"logits": model(given["pixel_values"])}
