"""Augmentation on the host: the same generator gives the same pixels, so every epoch of a run can
be made again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from vlm_jax.data.schema import Example

_SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE_WORDS = re.compile(r"\b(" + "|".join(_SIDES) + r")\b", re.IGNORECASE)

Op = Callable[[Image.Image, float], Image.Image]
"""(picture, strength in [-1, 1]) to picture; strength 0 changes nothing."""


def swap_sides(text: str) -> str:
    """The text with "left" and "right" exchanged, as in a mirrored picture; case is kept."""

    def swap(match: re.Match) -> str:
        word = match[0]
        other = _SIDES[word.lower()]
        return (
            other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
        )

    return _SIDE_WORDS.sub(swap, text)


def mirrored(example: Example) -> Example:
    """The example with left and right exchanged in its captions, questions and answers."""
    copy = example.copy()
    copy["captions"] = [swap_sides(caption) for caption in example["captions"]]
    if "retrieved" in example:
        copy["retrieved"] = [swap_sides(text) for text in example["retrieved"]]
    copy["questions"] = [question.copy() for question in example["questions"]]
    for question in copy["questions"]:
        question["question"] = swap_sides(question["question"])
        question["answers"] = [swap_sides(answer) for answer in question["answers"]]
    return copy


def _affine(coefficients: Callable[[float, int, int], tuple[float, ...]]) -> Op:
    """A geometric op from its inverse matrix (a, b, c, d, e, f); what comes from outside is
    mid-grey.
    """

    def op(image: Image.Image, strength: float) -> Image.Image:
        matrix = coefficients(strength, *image.size)
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix,
            Image.Resampling.BILINEAR,
            fillcolor=(128, 128, 128),
        )

    return op


def _enhance(kind: type) -> Op:
    return lambda image, strength: kind(image).enhance(1.0 + 0.9 * strength)


COLOUR_OPS: dict[str, Op] = {
    "autocontrast": lambda image, strength: Image.blend(
        image, ImageOps.autocontrast(image), abs(strength)
    ),
    "equalize": lambda image, strength: Image.blend(image, ImageOps.equalize(image), abs(strength)),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "solarize": lambda image, strength: ImageOps.solarize(image, 256 - round(256 * abs(strength))),
    "brightness": _enhance(ImageEnhance.Brightness),
    "contrast": _enhance(ImageEnhance.Contrast),
    "saturation": _enhance(ImageEnhance.Color),
    "sharpness": _enhance(ImageEnhance.Sharpness),
}
GEOMETRIC_OPS: dict[str, Op] = {
    "rotate": lambda image, strength: image.rotate(
        30.0 * strength, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    ),
    "shear_x": _affine(lambda s, w, h: (1, 0.3 * s, -0.15 * s * h, 0, 1, 0)),
    "shear_y": _affine(lambda s, w, h: (1, 0, 0, 0.3 * s, 1, -0.15 * s * w)),
    "translate_x": _affine(lambda s, w, h: (1, 0, 0.3 * s * w, 0, 1, 0)),
    "translate_y": _affine(lambda s, w, h: (1, 0, 0, 0, 1, 0.3 * s * h)),
}


@dataclass(frozen=True)
class Augment:
    """What happens to a training picture, in this order; the defaults change nothing.

    crop_scale: range in (0, 1] of the share of the area that a random crop keeps (arXiv:1409.4842,
    section 6). crop_ratio: range of its width / height relative to the picture's.
    flip: "off"; "plain", mirrored half of the time; or "swap_words", mirrored half of the time with
    left and right exchanged in the texts.
    brightness, contrast, saturation: each factor is drawn from [1 - x, 1 + x]; x in [0, 1].
    randaugment: how many random ops follow (arXiv:1909.13719). magnitude: their strength in
    [0, 10]. geometric: whether they may move things, which texts about places may not survive.
    Raises ValueError for values out of range.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: str = "off"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    randaugment: int = 0
    magnitude: float = 5.0
    geometric: bool = False

    def __post_init__(self):
        low, high = self.crop_scale
        narrow, wide = self.crop_ratio
        jitter = (self.brightness, self.contrast, self.saturation)
        checks = {
            f"crop_scale={self.crop_scale} must be a range in (0, 1]": 0 < low <= high <= 1,
            f"crop_ratio={self.crop_ratio} must be a range above 0": 0 < narrow <= wide,
            f'flip={self.flip!r} must be "off", "plain" or "swap_words"': (
                self.flip in ("off", "plain", "swap_words")
            ),
            f"brightness, contrast, saturation = {jitter} must be in [0, 1]": all(
                0 <= x <= 1 for x in jitter
            ),
            f"randaugment={self.randaugment} must be 0 or more": self.randaugment >= 0,
            f"magnitude={self.magnitude} must be in [0, 10]": 0 <= self.magnitude <= 10,
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(f"augment: {message}")

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """Augmented uint8[H2, W2, 3], and whether texts must exchange left and right."""
        image = Image.fromarray(pixels)
        if tuple(self.crop_scale) != (1.0, 1.0):
            image = self._crop(image, rng)
        mirrored = self.flip != "off" and rng.random() < 0.5
        if mirrored:
            image = ImageOps.mirror(image)
        for kind, spread in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            if spread:
                image = kind(image).enhance(rng.uniform(1 - spread, 1 + spread))
        ops = COLOUR_OPS | (GEOMETRIC_OPS if self.geometric else {})
        for name in rng.choice(sorted(ops), self.randaugment) if self.randaugment else ():
            image = ops[name](image, self.magnitude / 10 * rng.choice((-1.0, 1.0)))
        return np.asarray(image), mirrored and self.flip == "swap_words"

    def _crop(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """A random part; the whole picture if ten draws do not fit in it."""
        width, height = image.size
        for _ in range(10):
            share = rng.uniform(*self.crop_scale)
            ratio = np.exp(rng.uniform(*np.log(self.crop_ratio)))
            wide, high = (
                round(side * share**0.5 * r)
                for side, r in ((width, ratio**0.5), (height, ratio**-0.5))
            )
            if 0 < wide <= width and 0 < high <= height:
                left, top = rng.integers(width - wide + 1), rng.integers(height - high + 1)
                return image.crop((left, top, left + wide, top + high))
        return image
