"""A folder's preprocessor_config.json in our terms: how pictures become what a network reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_jax.data.images import METHODS
from vlm_jax.weights.folder import WeightsError, read_json

CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

KINDS: Mapping[str, dict[str, Any]] = {
    "CLIP": dict(size={"shortest_edge": 224}, crop_size=224, resample=3, stats=CLIP_STATISTICS),
    "SigLIP": dict(size={"height": 224, "width": 224}, resample=3, stats=HALVES),
    "Siglip": dict(size={"height": 224, "width": 224}, resample=3, stats=HALVES),
    "ViT": dict(size={"height": 224, "width": 224}, resample=2, stats=HALVES),
    "Blip": dict(size={"height": 384, "width": 384}, resample=3, stats=CLIP_STATISTICS),
    "Llava": dict(size={"shortest_edge": 224}, crop_size=224, resample=3, stats=CLIP_STATISTICS),
    "Gemma3": dict(size={"height": 896, "width": 896}, resample=2, stats=HALVES),
    "ConvNext": dict(size={"shortest_edge": 224}, resample=2, stats=IMAGENET),
    "BitImageProcessor": dict(size={"shortest_edge": 224}, crop_size=224, stats=CLIP_STATISTICS),
}
"""By the beginning of the preprocessor's class: what it does where its file leaves a key out."""

CROPPING = ("CLIP", "Llava", "Bit")
"""Classes that cut out the centre unless told otherwise."""


def read_processor(folder: str | Path) -> dict[str, Any]:
    """The image preprocessor's file; an empty dict if the folder has none."""
    own = read_json(folder, "preprocessor_config.json")
    return own or dict(read_json(folder, "processor_config.json").get("image_processor") or {})


def image_fields(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of `data.pipeline.ImageReader`, image_mean and image_std of the model).

    WeightsError for a preprocessor that makes anything but squares of one size, or has a setting
    that is not supported; it names the key.
    """
    given = read_processor(folder)
    if not given:
        raise WeightsError(
            f"{folder} holds no preprocessor_config.json: its pictures' size is unknown"
        )
    name = given.get("image_processor_type", given.get("feature_extractor_type", ""))
    usual = next((fields for start, fields in KINDS.items() if name.startswith(start)), {})
    cropping = name.startswith(CROPPING)
    settings = dict(do_resize=True, do_center_crop=cropping, do_rescale=True, do_normalize=True)
    settings |= dict(resample=3, rescale_factor=1 / 255) | usual | given
    stats = usual.get("stats", HALVES)
    _check(folder, settings)
    mean, std = settings.get("image_mean", stats[0]), settings.get("image_std", stats[1])
    if not settings["do_normalize"]:
        mean, std = (0.0,) * 3, (1.0,) * 3
    reader = _reader(folder, settings)
    return reader, dict(image_mean=tuple(mean), image_std=tuple(std))


def _check(folder: Any, settings: Mapping[str, Any]) -> None:
    """What every one of our readers does cannot be turned off."""
    for key, value in (("do_resize", True), ("do_rescale", True)):
        if settings[key] != value:
            raise WeightsError(f"{folder}: {key}={settings[key]!r} is not supported")
    if abs(settings["rescale_factor"] * 255 - 1) > 1e-6:
        raise WeightsError(f"{folder}: rescale_factor={settings['rescale_factor']} is not 1 / 255")
    for key in ("do_image_splitting", "do_pan_and_scan"):
        if settings.get(key):
            raise WeightsError(f"{folder}: {key}=true is not supported; set it to false")


def _reader(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Size, fit and method."""
    number = settings["resample"]
    if not 0 <= number < len(METHODS):
        raise WeightsError(f"{folder}: resample={number!r} is not one of Pillow's filters")
    method = list(METHODS)[number]
    size = settings["size"] if "size" in settings else 224
    if isinstance(size, int):
        size = {"shortest_edge": size} if settings["do_center_crop"] else _square(size)
    if "shortest_edge" in size and settings["do_center_crop"]:
        crop = settings.get("crop_size", size["shortest_edge"])
        crop = crop if isinstance(crop, Mapping) else _square(crop)
        return dict(
            size=_side(folder, crop), fit="crop", method=method, shortest=size["shortest_edge"]
        )
    if "height" in size and not settings["do_center_crop"]:
        return dict(size=_side(folder, size), fit="stretch", method=method)
    raise WeightsError(
        f"{folder}: size={dict(size)} with do_center_crop={settings['do_center_crop']} does not "
        "make squares of one size, which is not supported"
    )


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _side(folder: Any, size: Mapping[str, int]) -> int:
    if size.get("height") != size.get("width"):
        raise WeightsError(f"{folder}: {dict(size)} is not square, which is not supported")
    return size["height"]
