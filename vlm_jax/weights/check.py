"""A converted checkpoint against outputs that were recorded elsewhere.

    python -m vlm_jax.weights.check FOLDER REFERENCE.npz [--atol 1e-5]

REFERENCE.npz holds arrays named CALL.in.ARGUMENT, CALL.flag.NAME and CALL.out.NAME: what a call of
the reference implementation was given, and what it returned; a single number is a flag, whichever
it is named. CALL is forward, generate, match or contrast; what the names of outputs mean is in
`weights.calls`. Prints one JSON object: for every output the largest absolute difference (null if
it is no number) and the scale, the largest absolute value, of the recorded one. Positions whose
mask is 0 are not compared, nor are an image's positions before a text's logits. The exit code is 1
where a difference is above atol x max(1, scale), or a generated token differs; 2 where something
cannot be compared at all.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import Pretrained, read_folder

IMAGE_MASKS = ("visual_attention_mask", "pixel_attention_mask")
"""Arguments that say which of an image's tokens count; attention_mask and decoder_attention_mask
say it of words.
"""

PER_TOKEN = ("logits", "tokens", "text_tokens", "image_tokens")
"""Outputs with an axis of positions, after which the masks are."""

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
        inputs = {name: array for name, array in entry["in"].items() if array.ndim}
        flags = entry["flag"] | {name: x for name, x in entry["in"].items() if not x.ndim}
        flags = {name: _plain(value) for name, value in flags.items()}
        try:
            found = pretrained.call(call, inputs, flags)
        except KeyError as error:
            raise WeightsError(
                f"{call} needs the argument {error}, which is not recorded"
            ) from None
        unknown = sorted(set(entry["out"]) - set(found))
        if unknown:
            names = ", ".join(name for name in found if ":" not in name)
            raise WeightsError(f"{call} does not give {', '.join(unknown)}; it gives {names}")
        for name, expected in entry["out"].items():
            if call == "generate" and name == "tokens":
                fills = _fills(pretrained.generating() | flags)
                report[f"{call}.{name}"] = _same_tokens(np.asarray(found[name]), expected, fills)
            else:
                asked = Asked(name, inputs, pretrained)
                arrays = [found[key] for key in found if key.split(":")[0] == name]
                report[f"{call}.{name}"] = _nearest(asked, arrays, expected, atol)
    return report


def _plain(value: np.ndarray) -> Any:
    """A recorded flag as a Python value."""
    return value.item() if value.ndim == 0 else value.tolist()


def _fills(flags: Mapping[str, Any]) -> set[int]:
    """The ids that may follow the end of a text."""
    known = (flags.get(name) for name in ("pad_token_id", "eos_token_id", "sep_token_id"))
    return {0, *(int(i) for ids in known if ids is not None for i in np.atleast_1d(ids))}


def _same_tokens(given: np.ndarray, expected: np.ndarray, fills: set[int]) -> dict[str, Any]:
    """Generated ids agree exactly; where one has more columns, these hold nothing but fills."""
    scale = int(expected.max(initial=0))
    if given.ndim != expected.ndim or len(given) != len(expected):
        raise WeightsError(
            f"tokens have shape {list(given.shape)}, the recorded ones {list(expected.shape)}"
        )
    length = min(given.shape[1], expected.shape[1])
    wrong = int((given[:, :length] != expected[:, :length]).sum())
    rest = (given if given.shape[1] > length else expected)[:, length:]
    wrong += int((~np.isin(rest, sorted(fills))).sum())
    return {"difference": wrong, "scale": scale, "ok": wrong == 0}


class Asked(NamedTuple):
    """What is to be compared: an output's name, the call's inputs, and whose output it is."""

    name: str
    inputs: Mapping[str, np.ndarray]
    pretrained: Pretrained

    def prepends(self) -> bool:
        """Whether the reference's output begins with an image's positions that ours does not have:
        a decoder that reads images before the text gives the text's only.
        """
        before = getattr(self.pretrained.model.decoder, "memory", None) == "prepend"
        return before and self.name in ("logits", "tokens")

    def unordered(self) -> bool:
        """Whether image tokens may come in any order."""
        return self.name in self.pretrained.family.unordered

    def text_mask(self) -> np.ndarray | None:
        """bool[B, T], which words count for this output, None for all."""
        answers = "decoder_input_ids" in self.inputs and self.name != "text_tokens"
        mask = self.inputs.get("decoder_attention_mask" if answers else "attention_mask")
        return None if mask is None or mask.ndim != 2 else mask != 0

    def counted(self, shape: tuple[int, ...]) -> np.ndarray:
        """bool[shape], the positions whose masks are not 0."""
        found = np.ones(shape, bool)
        if len(shape) != 3:
            return found
        text, image = self.text_mask(), None
        for name in IMAGE_MASKS:
            if name in self.inputs and self.inputs[name].ndim == 2:
                image = self.inputs[name] != 0
        masks = [image] if self.name == "image_tokens" else [text]
        if self.name in ("logits", "tokens") and image is not None and "input_ids" in self.inputs:
            words = np.ones(self.inputs["input_ids"].shape, bool) if text is None else text
            masks.append(np.concatenate([words, image], axis=1))
        for mask in masks:
            if mask is not None and self.name in PER_TOKEN and mask.shape == shape[:2]:
                found &= mask[..., None]
        return found


def _nearest(
    asked: Asked, arrays: Sequence[Any], expected: np.ndarray, atol: float
) -> dict[str, Any]:
    """The report on the array that was recorded, which may be any of ours."""
    reports = []
    for array in arrays:
        pair = _aligned(asked, np.asarray(array), expected)
        if pair is not None:
            reports.append(_difference(asked, *pair, atol))
    if not reports:
        shapes = " or ".join(str(list(array.shape)) for array in arrays)
        raise WeightsError(
            f"{asked.name} has shape {shapes}, the recorded one {list(expected.shape)}"
        )
    return next((report for report in reports if report["ok"]), reports[0])


def _aligned(
    asked: Asked, given: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both with the same shape, None if that cannot be.

    Axes of length 1 do not matter. Image tokens may be in one row; those of ours that are more than
    the recorded ones must be 0, which stands for images that fill up.
    """
    if asked.unordered() and given.ndim == expected.ndim == 3:
        return _in_order(asked, given, expected)
    if asked.prepends() and given.ndim == expected.ndim == 3:
        expected = expected[:, -given.shape[1] :]
    if given.shape == expected.shape:
        return given, expected
    sides = [[n for n in array.shape if n != 1] for array in (given, expected)]
    if sides[0] == sides[1]:
        return given.reshape(expected.shape), expected
    flat = asked.name == "image_tokens" and given.shape[-1:] == expected.shape[-1:]
    if not flat or not expected.ndim or expected.size > given.size:
        return None
    given, expected = (x.reshape(-1, x.shape[-1]) for x in (given, expected))
    kept, rest = given[: len(expected)], given[len(expected) :]
    return None if rest.any() else (kept, expected)


def _in_order(
    asked: Asked, given: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Ours in the recorded order. Both begin with the text and end with the image's tokens, of
    which ours are 0 where they are padding; those come last, in the recorded ones too.
    """
    text = 0 if asked.name == "image_tokens" else asked.inputs["input_ids"].shape[1]
    ours, theirs = given[:, text:], expected[:, text:]
    real = np.any(ours != 0, axis=2)
    count = int(real.sum(axis=1).max())
    if given.shape[::2] != expected.shape[::2] or theirs.shape[1] < count:
        return None
    rows = []
    for row, kept in enumerate(list(real)):
        left, found = ours[row, kept], np.zeros_like(theirs[row])
        for place, state in enumerate(theirs[row, : kept.sum()]):
            nearest = int(np.abs(left - state).max(axis=1).argmin())
            found[place], left = left[nearest], np.delete(left, nearest, axis=0)
        rows.append(found)
    theirs = np.where(np.arange(theirs.shape[1])[:, None] < real.sum(1)[:, None, None], theirs, 0)
    joined = np.concatenate([given[:, :text], np.stack(rows)], axis=1)
    expected = np.concatenate([expected[:, :text], theirs], axis=1)
    mask = asked.text_mask()
    if text and mask is not None and mask.shape[1] == text:
        whole = np.pad(mask, ((0, 0), (0, theirs.shape[1])), constant_values=True)[..., None]
        joined, expected = np.where(whole, joined, 0), np.where(whole, expected, 0)
    return joined, expected


def _difference(
    asked: Asked, given: np.ndarray, expected: np.ndarray, atol: float
) -> dict[str, Any]:
    """The largest difference where the masks are not 0; None for one that is no number."""
    counted = asked.counted(expected.shape)
    ours, theirs = given.astype(np.float64)[counted], expected.astype(np.float64)[counted]
    with np.errstate(invalid="ignore"):
        apart = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    finite = theirs[np.isfinite(theirs)]
    scale, difference = float(np.abs(finite).max(initial=0)), float(apart.max(initial=0))
    sound = bool(np.isfinite(apart).all())
    ok = sound and difference <= atol * max(1.0, scale)
    return {"difference": difference if sound else None, "scale": scale, "ok": ok}


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
    except (WeightsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TypeError, IndexError, ZeroDivisionError) as error:
        # Arrays of other shapes than a call can read end anywhere within it.
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report))
    return 0 if all(entry["ok"] for entry in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
