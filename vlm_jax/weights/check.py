"""A converted checkpoint against outputs that were recorded elsewhere.

    python -m vlm_jax.weights.check FOLDER REFERENCE.npz [--atol 1e-5]

REFERENCE.npz holds arrays named CALL.in.ARGUMENT, CALL.flag.NAME and CALL.out.NAME: what a call of
the reference implementation was given, and what it returned. CALL is forward, generate, match or
contrast. Prints one JSON object: for every output the largest absolute difference and the scale,
the largest absolute value, of the recorded one. The exit code is 1 where a difference is above
atol x max(1, scale), or a generated token differs; 2 where something cannot be compared at all.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import Pretrained, read_folder

MASKS = (
    "attention_mask",
    "decoder_attention_mask",
    "pixel_attention_mask",
    "pixel_mask",
    "visual_attention_mask",
)
"""Arguments that say which positions count."""

PER_TOKEN = ("logits", "tokens", "text_tokens")
"""Outputs with an axis of text positions, after which the masks are."""

Recorded = dict[str, dict[str, dict[str, np.ndarray]]]
"""Call to "in", "flag" and "out", each a dict of arrays."""


def read_reference(path: str | Path) -> Recorded:
    """The calls recorded in a file. WeightsError for a file or a name that makes no sense."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not an .npz of plain arrays: {error}") from None
    recorded: Recorded = {}
    for name, array in arrays.items():
        parts = name.split(".", 2)
        if len(parts) != 3 or parts[1] not in ("in", "flag", "out"):
            raise WeightsError(
                f"{path}: array {name!r} is not named CALL.in.X, CALL.flag.X or CALL.out.X"
            )
        call, kind, key = parts
        recorded.setdefault(call, {"in": {}, "flag": {}, "out": {}})[kind][key] = array
    if not any(entry["out"] for entry in recorded.values()):
        raise WeightsError(f"{path} records no output (CALL.out.NAME)")
    return recorded


def compare(pretrained: Pretrained, recorded: Recorded, atol: float) -> dict[str, dict[str, Any]]:
    """For every "CALL.NAME" its difference, its scale, and whether that is ok.

    WeightsError for a call, an argument or an output that the family does not know.
    """
    report = {}
    for call, entry in recorded.items():
        if call not in pretrained.family.calls:
            known = ", ".join(pretrained.family.calls)
            raise WeightsError(f"this family has no call {call!r}; it has {known}")
        flags = {name: _plain(value) for name, value in entry["flag"].items()}
        try:
            found = pretrained.call(call, entry["in"], flags)
        except KeyError as error:
            raise WeightsError(
                f"{call} needs the argument {error}, which is not recorded"
            ) from None
        unknown = sorted(set(entry["out"]) - set(found))
        if unknown:
            raise WeightsError(
                f"{call} does not give {', '.join(unknown)}; it gives {', '.join(found)}"
            )
        for name, expected in entry["out"].items():
            given = np.asarray(found[name])
            exact = call == "generate" and name == "tokens"
            report[f"{call}.{name}"] = (
                _same_tokens(given, expected)
                if exact
                else _difference(name, given, expected, entry["in"], atol)
            )
    return report


def _plain(value: np.ndarray) -> Any:
    """A recorded flag as a Python value."""
    return value.item() if value.ndim == 0 else value.tolist()


def _same_tokens(given: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """Generated ids agree exactly; either may be filled up longer with its last token."""
    length = max(given.shape[1], expected.shape[1])
    fill = lambda x: np.pad(x, ((0, 0), (0, length - x.shape[1])), mode="edge")
    wrong = int((fill(given) != fill(expected)).sum()) if len(given) == len(expected) else -1
    return {"difference": wrong, "scale": int(expected.max(initial=0)), "ok": wrong == 0}


def _difference(
    name: str, given: np.ndarray, expected: np.ndarray, inputs: Mapping, atol: float
) -> dict[str, Any]:
    """The largest difference where the masks are not 0."""
    if name in PER_TOKEN and given.ndim == expected.ndim == 3:
        expected = expected[:, -given.shape[1] :]  # image positions before the text are not ours
    if given.shape != expected.shape:
        raise WeightsError(
            f"{name} has shape {list(given.shape)}, the recorded one {list(expected.shape)}"
        )
    counted = np.ones(expected.shape, bool)
    for mask in (inputs[key] for key in MASKS if key in inputs):
        if mask.shape == expected.shape[: mask.ndim] and expected.ndim > mask.ndim:
            counted &= (mask != 0).reshape(mask.shape + (1,) * (expected.ndim - mask.ndim))
    apart = np.abs(given.astype(np.float64) - expected)[counted]
    scale = float(np.abs(expected[counted]).max(initial=0))
    difference = float(apart.max(initial=0))
    sound = bool(np.isfinite(apart).all()) and difference <= atol * max(1.0, scale)
    return {"difference": difference, "scale": scale, "ok": sound}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vlm_jax.weights.check", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", help="checkpoint folder: config.json and .safetensors")
    parser.add_argument("reference", help=".npz with recorded inputs and outputs")
    parser.add_argument("--atol", type=float, default=1e-5, help="tolerance (default 1e-5)")
    given = parser.parse_args(arguments)
    try:
        recorded = read_reference(given.reference)
        report = compare(read_folder(given.folder), recorded, given.atol)
    except (WeightsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report))
    return 0 if all(entry["ok"] for entry in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
