"""Parity with references that keep a state dict and no folder: torchvision and open_clip.

They are installed without their dependencies, see tests/torchvision_operators.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from tests.weights import parity
from vlm_jax.weights.pretrained import Pretrained, read_folder, write_folder


def state_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Tensors by name, as a file holds them."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


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
    parity.compare(parity.run(loaded, call, inputs), expected, 1e-5)
    parity.compare_gradients(model, loaded, call, inputs, ask, names)
    write_folder(loaded, folder / "exported")
    assert (folder / "exported" / files[0]).is_file()
    written = load_file(folder / "exported" / files[1])
    before = state_of(model)
    counters = {name for name in before if name.endswith("num_batches_tracked")}
    assert before.keys() - written.keys() <= counters and written.keys() <= before.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    return loaded


def logits(model: torch.nn.Module, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a classifier returns."""
    return {"logits": model(given["pixel_values"])}
