"""A folder's preprocessor_config.json in our terms: how pictures become what a network reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_jax.data.images import NUMBERED
from vlm_jax.weights.family import Config, Family
from vlm_jax.weights.folder import WeightsError, read_json

CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

TILES: dict[str, Any] = dict(
    fit="tiles",
    size={"longest_edge": 4 * 364},
    max_image_size={"longest_edge": 364},
    do_image_splitting=True,
    resample=1,
    stats=HALVES,
)
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
"""Least and most pixels of Qwen2-VL's pictures."""

FRAMES = 16
"""Of a video that Qwen2-VL sees, spread evenly, where the folder does not say."""

FEWEST_AND_MOST = (4, 768)
"""Frames of a video that Qwen2-VL sees by the second, unless the folder says others."""

CONTEXT = 128_000
"""Tokens that frames share where a folder caps their pixels and does not say how many."""

WIDEST = 1333 / 800
"""Of ViLT's pictures, the longest side over the shortest."""

CROPS = dict(min_crop_size=256, max_num_crops=4, min_ratio_to_activate=1.2)
"""Pan and scan of Gemma 3, where the folder switches it on and says no more."""

LARGE = 384
"""The side from which on ConvNext's pictures lose nothing at the edges."""

SQUARE = {"height": 224, "width": 224}
SHORT: dict[str, Any] = dict(size={"shortest_edge": 224}, crop_size=224, do_center_crop=True)
SHORT |= dict(default_to_square=False)
KINDS: Mapping[str, dict[str, Any]] = {
    "CLIP": SHORT | dict(stats=CLIP_STATISTICS),
    "Siglip2": dict(fit="patches", patch_size=16, max_num_patches=256, resample=2, stats=HALVES),
    "SigLIP": dict(size=SQUARE, default_to_square=False, stats=HALVES),
    "Siglip": dict(size=SQUARE, default_to_square=False, stats=HALVES),
    "ViT": dict(size=SQUARE, default_to_square=True, resample=2, stats=HALVES),
    "Blip": dict(size={"height": 384, "width": 384}, default_to_square=True, stats=CLIP_STATISTICS),
    "Llava": SHORT | dict(stats=CLIP_STATISTICS),
    "Gemma3": dict(size=SQUARE, default_to_square=True, resample=2, stats=HALVES),
    "ConvNext": dict(fit="middle", size={"shortest_edge": 384}, crop_pct=0.875, stats=HALVES),
    "EfficientNet": dict(
        fit="stretch_crop",
        size={"height": 346, "width": 346},
        crop_size={"height": 289, "width": 289},
        default_to_square=True,
        rescale_offset=False,
        include_top=True,
        stats=HALVES,
    ),
    "Bit": SHORT | dict(stats=CLIP_STATISTICS),
    "VideoMAE": SHORT | dict(resample=2, stats=HALVES),
    "Vilt": dict(fit="canvas", size={"shortest_edge": 384}, size_divisor=32, stats=HALVES),
    "Qwen2VL": dict(fit="native", patch_size=14, merge_size=2, stats=CLIP_STATISTICS),
    "Idefics3": TILES,
    "Idefics": dict(size=SQUARE, image_size=None, stats=CLIP_STATISTICS),
    "SmolVLM": TILES,
}
"""By the preprocessor's class without ImageProcessor, FeatureExtractor and Fast: what it does where
its file leaves a key out; resample is 3 unless said.
"""

ENDINGS = ("Fast", "Pil", "ImageProcessor", "FeatureExtractor")

COMMON = ("do_resize", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
COMMON += ("resample", "size")
READ: Mapping[str, tuple[str, ...]] = {
    "": ("crop_size", "do_center_crop", "default_to_square"),
    "middle": ("crop_pct",),
    "canvas": ("size_divisor",),
    "patches": ("patch_size", "max_num_patches"),
    "stretch_crop": ("crop_size", "do_center_crop", "default_to_square"),
    "native": (
        *("patch_size", "merge_size", "temporal_patch_size", "min_pixels", "max_pixels"),
        *("fps", "num_frames", "min_frames", "max_frames"),
        *("cap_pixels_per_frame", "max_video_tokens"),
    ),
    "tiles": ("max_image_size", "do_image_splitting"),
    "crops": ("crop_size", "do_center_crop", "default_to_square", "do_pan_and_scan"),
}
"""Keys that are read, of all kinds and by `fit`."""

IDLE = (
    # Names, and the form of what the class returns.
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map"),
    *("_valid_processor_keys", "model_input_names", "return_tensors", "data_format", "device"),
    *("input_data_format", "disable_grouping", "return_row_col_info", "return_metadata"),
    # Pictures are RGB here anyway, and how many tokens one has is the network's to say.
    *("do_convert_rgb", "image_num_channels", "image_seq_length", "image_seq_len"),
    "num_additional_image_tokens",
    # What belongs to switches that must be off, and to the reading of videos.
    *("pad_size", "pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops"),
    *("pan_and_scan_min_ratio_to_activate", "do_sample_frames", "video_sampling"),
)
"""Keys that change no picture."""


def read_processor(folder: str | Path) -> dict[str, Any]:
    """The image preprocessor's file; an empty dict if the folder has none."""
    own = read_json(folder, "preprocessor_config.json")
    return own or dict(read_json(folder, "processor_config.json").get("image_processor") or {})


def image_fields(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of `data.pipeline.InputReader`, image_mean and image_std of the model).

    WeightsError for a preprocessor that is not here, or has a setting that is not supported; it
    names the key.
    """
    given = read_processor(folder)
    open_clip = read_json(folder, "open_clip_config.json")
    if open_clip and not given:
        return _open_clip_fields(folder, open_clip)
    if not given:
        raise WeightsError(
            f"{folder} holds no preprocessor_config.json: its pictures' size is unknown"
        )
    given = {key: value for key, value in given.items() if value is not None}
    usual = _usual(folder, given)
    settings: dict[str, Any] = dict(do_resize=True, do_rescale=True, do_normalize=True)
    settings |= dict(do_center_crop=False, resample=3, rescale_factor=1 / 255) | usual | given
    stats = usual.get("stats", HALVES)
    _check(folder, given, settings, usual)
    mean = _channels(settings.get("image_mean", stats[0]))
    std = _channels(settings.get("image_std", stats[1]))
    again = std if settings.get("include_top") else (1.0,) * 3
    if not settings["do_normalize"]:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if usual.get("fit") == "stretch_crop":
        mean, std = _rescaled(settings, mean, std, again)
    reader = READERS.get(settings.get("fit", ""), _reader)(folder, settings)
    reader |= dict(method=_method(folder, settings["resample"]))
    return reader, dict(image_mean=mean, image_std=std)


def _rescaled(
    settings: Mapping[str, Any], mean: Any, std: Any, again: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What EfficientNet's pixels x in [0, 255] are divided by and moved, as mean and std of
    x / 255: any factor, perhaps less 1, then the usual, then divided `again`.
    """
    factor, shift = 255 * settings["rescale_factor"], float(bool(settings["rescale_offset"]))
    moved = tuple((shift + m) / factor for m in mean)
    return moved, tuple(s * t / factor for s, t in zip(std, again, strict=True))


def _usual(folder: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the class of a file does where the file says nothing; {} for a file without a class."""
    name = kind = given.get("image_processor_type", given.get("feature_extractor_type", ""))
    for ending in ENDINGS:
        kind = kind.removesuffix(ending)
    if name and kind not in KINDS:
        raise WeightsError(
            f"{folder}: pictures prepared by {name} are not supported; known are the image "
            f"processors of {', '.join(KINDS)}"
        )
    cut = dict(fit="crops") if kind == "Gemma3" and given.get("do_pan_and_scan") is True else {}
    return dict(KINDS.get(kind, {})) | cut


def _channels(given: Any) -> tuple[float, ...]:
    """Three numbers, which a file may give as one."""
    return tuple(given) if isinstance(given, (list, tuple)) else (float(given),) * 3


def region_fields(family: Family, config: Config) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The same for a family that reads features of regions, None for one that reads pictures."""
    if dict(family.model(config).get("vision") or {}).get("name") != "regions":
        return None
    width = family.example(config)[0]["image"].shape[-1]
    return dict(size=width, fit="regions"), {}


def _check(
    folder: Any, given: Mapping[str, Any], settings: Mapping[str, Any], usual: Mapping[str, Any]
) -> None:
    """What every one of our readers does cannot be turned off, and what none does not on."""
    for key, value in (("do_resize", True), ("do_rescale", True)):
        if settings[key] != value:
            raise WeightsError(f"{folder}: {key}={settings[key]!r} is not supported")
    fit = usual.get("fit", "")
    if fit != "stretch_crop" and abs(settings["rescale_factor"] * 255 - 1) > 1e-6:
        raise WeightsError(f"{folder}: rescale_factor={settings['rescale_factor']} is not 1 / 255")
    known = {*COMMON, *READ[fit], *IDLE, *usual} - {"fit", "stats"}
    known |= set() if fit in ("", "middle", "crops", "stretch_crop") else {"do_pad"}
    for key in sorted(set(given) - known):
        if given[key] is True:
            raise WeightsError(f"{folder}: {key}=true is not supported; set it to false")
        if given[key] is not False:
            raise WeightsError(
                f"{folder}: {key}={given[key]!r} is not a setting of its preprocessor that is "
                "known here; remove it if it changes nothing"
            )


def _method(folder: Any, number: Any) -> str:
    if not isinstance(number, int) or not 0 <= number < len(NUMBERED):
        raise WeightsError(f"{folder}: resample={number!r} is not one of Pillow's filters")
    return list(NUMBERED)[number]


def _reader(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Squares of one size."""
    size = settings.get("image_size") or settings.get("size", 224)
    crops = settings["do_center_crop"]
    if isinstance(size, int):
        square = settings.get("default_to_square", not crops)
        size = _square(size) if square else {"shortest_edge": size}
    size = _sides(size)
    crop = settings.get("crop_size", size.get("shortest_edge"))
    crop = _square(crop) if isinstance(crop, int) else _sides(crop)
    if set(size) == {"shortest_edge"} and crops:
        return dict(size=_side(folder, crop), fit="crop", shortest=size["shortest_edge"])
    if set(size) == {"height", "width"} and (not crops or crop == size):
        return dict(size=_side(folder, size), fit="stretch")
    raise WeightsError(
        f"{folder}: size={size} with do_center_crop={crops} does not make squares of one size, "
        "which is not supported"
    )


def _stretch_crop(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """EfficientNet's: the whole picture stretched to a square, perhaps the middle of that."""
    given = (settings["size"], settings["crop_size"])
    size, crop = (_sides(_square(x) if isinstance(x, int) else x) for x in given)
    both = set(size) == set(crop) == {"height", "width"}
    if not settings["do_center_crop"] or not both or _side(folder, crop) >= _side(folder, size):
        return _reader(folder, settings)
    return dict(size=crop["height"], fit="stretch_crop", shortest=size["height"])


def _sides(size: Any) -> dict[str, int]:
    """A size by name, which a file may give as height and width, with keys that say nothing."""
    if isinstance(size, (list, tuple)):
        return dict(zip(("height", "width"), size, strict=True))
    return {key: side for key, side in (size or {}).items() if side is not None}


def _middle(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """ConvNext's pictures, which ResNets have, too: the middle of a larger one, from 384 pixels on
    all of it, stretched. WeightsError without a side.
    """
    size = settings["size"]
    side = size if isinstance(size, int) else size.get("shortest_edge")
    if side is None:
        raise WeightsError(f"{folder}: size={size!r} has no shortest_edge")
    if side >= LARGE:
        return dict(size=side, fit="stretch")
    return dict(size=side, fit="crop", shortest=int(side / settings["crop_pct"]))


def _canvas(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """ViLT's pictures, whose sides are multiples of a divisor; the patches are the network's."""
    size, divisor = settings["size"], settings["size_divisor"]
    shortest = size if isinstance(size, int) else size.get("shortest_edge")
    if shortest is None:
        raise WeightsError(f"{folder}: size={size!r} has no shortest_edge")
    patch = read_json(folder, "config.json").get("patch_size", 32)
    if not isinstance(patch, int) or divisor % patch:
        raise WeightsError(f"{folder}: size_divisor={divisor} is no multiple of {patch=}")
    longest = int(WIDEST * shortest)
    fields = dict(size=patch, fit="canvas", block=divisor // patch)
    return fields | dict(shortest=shortest, longest=longest)


def _patches(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """SigLIP 2's, NaFlex."""
    most = settings["max_num_patches"]
    return dict(size=settings["patch_size"], fit="patches", most=most)


def _native(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen2-VL's, of pictures and of videos, whose settings are those of pictures in older folders.

    How many frames of a video are read is no matter of the network: as many a second as the folder
    says by `fps`, between min_frames and max_frames, or num_frames, or else FRAMES. WeightsError
    for both fps and num_frames.
    """
    fields = dict(size=settings["patch_size"], fit="native", block=settings["merge_size"])
    together = read_json(folder, "processor_config.json").get("video_processor")
    videos = read_json(folder, "video_preprocessor_config.json") or together or settings
    depth = videos.get("temporal_patch_size") or settings.get("temporal_patch_size", 2)
    clip = _pixels(videos) | dict(depth=depth)
    if videos.get("cap_pixels_per_frame"):
        clip |= dict(tokens=videos.get("max_video_tokens") or CONTEXT)
    frames = videos.get("num_frames") or FRAMES
    return (
        fields | _pixels(settings) | dict(frames=frames, clip=clip) | _pace(folder, videos, depth)
    )


def _pace(folder: Any, videos: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """How many frames a second are read, if the folder says that."""
    fps, (least, most) = videos.get("fps"), FEWEST_AND_MOST
    if not fps:
        return {}
    if videos.get("num_frames"):
        raise WeightsError(f"{folder}: {fps=} and num_frames exclude each other: keep one of them")
    limits = dict(least=videos.get("min_frames") or least, most=videos.get("max_frames") or most)
    return dict(pace=dict(fps=float(fps), depth=depth) | limits)


def _pixels(settings: Mapping[str, Any]) -> dict[str, int]:
    """The least and most pixels; the numbers have had two places."""
    size = PIXELS | dict(settings.get("size") or {})
    least, most = (
        settings.get(old) or size.get(old) or size[new]
        for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
    )
    return dict(least=least, most=most)


def _tiles(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Idefics3's and SmolVLM's."""
    try:
        longest, side = (settings[key]["longest_edge"] for key in ("size", "max_image_size"))
    except (KeyError, TypeError):
        given = {key: settings[key] for key in ("size", "max_image_size")}
        raise WeightsError(f"{folder}: {given} do not say the longest_edge of each") from None
    return dict(size=side, fit="tiles", longest=longest, split=bool(settings["do_image_splitting"]))


def _crops(folder: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 3's with pan and scan: parts of a picture beside the whole, for which the reference's
    processor must be asked in every call, and its image processor by the folder.
    """
    reader = _reader(folder, settings)
    if reader["fit"] != "stretch":
        raise WeightsError(f"{folder}: do_pan_and_scan=true with do_center_crop=true: choose one")
    told = {key: settings.get(f"pan_and_scan_{key}", usual) for key, usual in CROPS.items()}
    names = dict(zip(("least", "most", "ratio"), told.values(), strict=True))
    return reader | dict(fit="crops", crops=names)


READERS = {
    "canvas": _canvas,
    "crops": _crops,
    "middle": _middle,
    "native": _native,
    "patches": _patches,
    "stretch_crop": _stretch_crop,
    "tiles": _tiles,
}
"""By `fit` in KINDS, for what is not squares of one size cut out or stretched."""


def _open_clip_fields(folder: Any, config: Mapping[str, Any]) -> tuple[dict, dict]:
    """The same of open_clip_config.json, from its preprocess_cfg; the size is the model's where
    that leaves it out.
    """
    given = dict(config.get("preprocess_cfg") or {})
    model = dict(config.get("model_cfg") or {})
    size = given.get("size", dict(model.get("vision_cfg") or {}).get("image_size", 224))
    sides = {size} if isinstance(size, int) else {*size[-2:]}
    method = given.get("interpolation", "bicubic")
    fits = {"shortest": "round_crop", "longest": "black_pad", "squash": "stretch"}
    mode = given.get("resize_mode", "shortest")
    if len(sides) != 1 or method not in ("bicubic", "bilinear") or mode not in fits:
        raise WeightsError(
            f"{folder}: preprocess_cfg with {size=}, interpolation={method!r}, resize_mode="
            f"{mode!r} is not supported; only squares, bicubic or bilinear, {', '.join(fits)} are"
        )
    if given.get("fill_color", 0) not in (0, [0, 0, 0]):
        raise WeightsError(f"{folder}: fill_color={given['fill_color']!r} is not supported, only 0")
    mean, std = given.get("mean", CLIP_STATISTICS[0]), given.get("std", CLIP_STATISTICS[1])
    reader = dict(size=sides.pop(), fit=fits[mode], method=method)
    return reader, dict(image_mean=tuple(mean), image_std=tuple(std))


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _side(folder: Any, size: Mapping[str, int]) -> int:
    if size.get("height") != size.get("width"):
        raise WeightsError(f"{folder}: {dict(size)} is not square, which is not supported")
    return size["height"]
