"""One check for every family: a randomised reference model against ours, there and back again.

`check(reference, inputs)` saves the reference, loads the folder here, and compares outputs, the
gradients of a random projection of them, and the outputs of the reference again after an export.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from vlm_jax.weights import convert, pretrained
from vlm_jax.weights.folder import Arrays
from vlm_jax.weights.pretrained import Pretrained, read_folder, write_folder

torch.set_num_threads(1)


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter and running statistic random: no bias 0, no norm 1, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    noise = lambda tensor: torch.randn(tensor.shape, generator=generator)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            fan_in = tensor.shape[-1] if tensor.ndim == 2 else int(np.prod(tensor.shape[1:])) or 1
            scale = 0.5 if tensor.ndim < 2 else fan_in**-0.5
            offset = (
                1.0 if tensor.ndim == 1 and "norm" in name.lower() and "weight" in name else 0.0
            )
            tensor.copy_(offset + scale * noise(tensor))
        for name, tensor in model.named_buffers():
            if "running_mean" in name:
                tensor.copy_(0.3 * noise(tensor))
            elif "running_var" in name:
                tensor.copy_(0.5 + noise(tensor).abs())
    return model.eval()


def check(
    reference: Any,
    inputs: dict[str, np.ndarray],
    folder: Path,
    *,
    names: tuple[str, ...] = ("logits",),
    call: str = "forward",
    atol: float = 1e-5,
    gradients: bool = True,
    theirs: Any = None,
    writes: dict[str, Any] | None = None,
    where: dict[str, np.ndarray] | None = None,
    loading: dict[str, Any] | None = None,
) -> Pretrained:
    """All of it for one model; names: the outputs that are compared.

    theirs: the reference's call, (model, inputs) -> outputs by name; by default model(**inputs).
    writes: inputs to generate from, greedily and with beams, where that is to be compared too.
    where: output's name to a mask over its first axes; elsewhere (padding) nothing is compared.
    loading: what the reference's from_pretrained needs besides the folder.
    """
    reference.save_pretrained(folder / "saved")
    loaded = read_folder(folder / "saved")
    ask = theirs or (lambda model, given: model(**given))
    expected = outputs(reference, inputs, ask, names)
    if gradients:
        compare_with_gradients(reference, loaded, call, inputs, ask, names, atol, where)
    else:
        compare(run(loaded, call, inputs), expected, atol, where)
    if writes is not None:
        compare_texts(reference, loaded, writes)
    write_folder(loaded, folder / "exported", like=folder / "saved")
    options = dict(output_loading_info=True) | (loading or {})
    again, info = type(reference).from_pretrained(folder / "exported", **options)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    for name, tensor in reference.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], tensor, err_msg=name)
    compare(outputs(again.eval(), inputs, ask, names), expected, 1e-7, least=1.0)
    return loaded


def tensors_of(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()}


def outputs(model: Any, inputs: Any, ask: Any, names: Any) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = ask(model, tensors_of(inputs))
    return {name: pick(found, name).numpy() for name in names}


def pick(found: Any, name: str) -> torch.Tensor:
    return found[name] if isinstance(found, dict) and name in found else getattr(found, name)


def run(loaded: Pretrained, call: str, inputs: Any) -> dict[str, np.ndarray]:
    """One of our calls, compiled as a whole."""

    def program(variables, given):
        apply = lambda *args, **options: loaded.model.apply(variables, *args, **options)
        return loaded.family.calls[call](apply, given, {})

    return jax.device_get(jax.jit(program)(loaded.variables, inputs))


def compare_texts(reference: Any, loaded: Pretrained, inputs: dict[str, np.ndarray]) -> None:
    for flags in ({}, {"num_beams": 3, "length_penalty": 2.0}):
        flags = {"max_new_tokens": 6, "do_sample": False, **flags}
        with torch.no_grad():
            expected = reference.generate(**tensors_of(inputs), **flags).numpy()
        found = loaded.call("generate", inputs, flags)["tokens"][:, : expected.shape[1]]
        np.testing.assert_array_equal(found, expected)


def compare(
    found: dict, expected: dict, atol: float, where: Any = None, least: float = 0.0
) -> None:
    """Every output relative to its largest entry, or to `least` where that is larger."""
    for name, value in expected.items():
        scale = max(least, float(np.abs(value).max()))
        assert found[name].shape == value.shape, (name, found[name].shape, value.shape)
        seen = kept(where, name, value.shape) / scale
        np.testing.assert_allclose(
            found[name] * seen, value * seen, atol=atol, rtol=0, err_msg=name
        )


def kept(where: dict[str, np.ndarray] | None, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """1 where an output is compared, 0 elsewhere."""
    if where is None or name not in where:
        return np.ones(shape, np.float32)
    mask = where[name].astype(np.float32)
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def compare_with_gradients(
    reference, loaded, call, inputs, ask, names, atol: float = 1e-5, where=None
) -> None:
    """Outputs, and within 1e-4 the gradients of sum(output * noise) with respect to every
    parameter; ours by one program, which is traced and compiled once.
    """

    def weights(name, shape):
        noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
        return (noise * kept(where, name, tuple(shape))).astype("float32")

    found = ask(reference, tensors_of(inputs))
    found = {name: pick(found, name) for name in names}
    total = sum(
        (value * torch.from_numpy(weights(name, value.shape))).sum()
        for name, value in found.items()
    )

    def loss(params, inputs):
        variables = {**loaded.variables, "params": params}
        apply = lambda *args, **options: loaded.model.apply(variables, *args, **options)
        outs = loaded.family.calls[call](apply, inputs, {})
        outs = {name: outs[name] for name in names}
        return sum(jnp.sum(outs[name] * weights(name, outs[name].shape)) for name in names), outs

    program = jax.jit(jax.grad(loss, has_aux=True))
    slopes, outs = jax.device_get(program(loaded.variables["params"], inputs))
    compare(outs, {name: value.detach().numpy() for name, value in found.items()}, atol, where)
    theirs = translate(loaded, gradients_of(reference, total))["params"]
    compare_trees(slopes, theirs, 1e-4, least=min(1.0, largest(theirs) / 100))


def check_loss(reference: Any, inputs: dict[str, np.ndarray], folder: Path, ours: Any, theirs: Any):
    """The reference's own loss and its gradients for every parameter, against ours.

    ours: (apply, inputs, forward) -> f32[B], of which the mean is the loss; forward: the family's
    call, (apply, inputs) -> outputs. theirs: (model, inputs) -> the loss.
    """
    reference.save_pretrained(folder)
    compare_loss(reference, read_folder(folder), inputs, ours, theirs)


def compare_loss(reference: Any, loaded: Pretrained, inputs: Any, ours: Any, theirs: Any) -> None:
    """`check_loss` of a folder that is read already."""
    expected = theirs(reference, tensors_of(inputs))
    assert abs(expected.item()) > 0.1
    forward = lambda apply, given: loaded.family.calls["forward"](apply, given, {})

    def loss(params, inputs):
        variables = {**loaded.variables, "params": params}
        apply = lambda *args, **options: loaded.model.apply(variables, *args, **options)
        return jnp.mean(ours(apply, inputs, forward))

    program = jax.jit(jax.value_and_grad(loss))
    value, found = jax.device_get(program(loaded.variables["params"], inputs))
    compare({"loss": value[None]}, {"loss": expected.detach().numpy()[None]}, 1e-5)
    own = translate(loaded, gradients_of(reference, expected))["params"]
    compare_trees(found, own, 1e-4, least=max(0.01, largest(own) / 100))


def gradients_of(reference: Any, total: torch.Tensor) -> dict[str, np.ndarray]:
    """Gradients of a sum by the names of parameters, and the buffers."""
    reference.zero_grad()
    total.backward()
    found = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in reference.named_parameters()
    }
    return found | {name: b.numpy() for name, b in reference.named_buffers()}


def largest(tree: Any) -> float:
    """Of all entries of all leaves, without their signs."""
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def compare_trees(ours: Any, theirs: Any, atol: float, least: float) -> None:
    """Every leaf relative to its largest entry, or to `least` where that is larger: some gradients
    are zero but for rounding (a key's bias moves all scores alike).
    """
    for (path, mine), (_, other) in zip(
        jax.tree_util.tree_leaves_with_path(ours),
        jax.tree_util.tree_leaves_with_path(theirs),
        strict=True,
    ):
        scale = max(least, float(np.abs(other).max()))
        message = jax.tree_util.keystr(path)
        np.testing.assert_allclose(mine / scale, other / scale, atol=atol, rtol=0, err_msg=message)


def translate(loaded: Pretrained, arrays: dict[str, np.ndarray]) -> Any:
    """Arrays under the reference's names as a tree of our variables."""
    family, config = loaded.family, loaded.config
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.variables)
    ignored = family.ignored(config) if callable(family.ignored) else family.ignored
    return convert.read(
        Arrays(arrays),
        shapes,
        family.rules(config),
        renames=family.renames,
        ignored=(*ignored, r".*"),
        place=lambda path, array: array,
    )


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tokens(batch: int, length: int, vocab: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, vocab, (batch, length))


def describe(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def published(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a folder with this config.json, by our mapping table."""
    family = pretrained.family_of(config)
    _, shapes = pretrained.shapes_of(family, config)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    return {name: array.shape for name, array in convert.write(zeros, family.rules(config))}
