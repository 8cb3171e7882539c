"""Everything that touches pixels on the host: decoding what users have, and fitting it to a model's
input of one size.
"""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlm_jax.data.schema import DataError
from vlm_jax.data.schema import Image as ExampleImage
from vlm_jax.kwargs import Pair, pair

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded, H * W: 300 MB as RGB. Larger ones are refused from their header
alone.
"""

NUMBERED = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
"""By name, in the order of Pillow's numbers, by which published preprocessors call them."""

ALIASED = "aliased_bilinear"
"""Between the four nearest pixels and no others, rounded down: what TensorFlow's resize makes of a
picture unless it is asked for antialiasing.
"""

METHODS = (*NUMBERED, ALIASED)

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, LookupError)
_BROKEN += (struct.error, zlib.error)  # what Pillow's readers raise for damaged files

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def decode(image: ExampleImage | Image.Image, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Uint8[H, W, 3] RGB in [0, 255] from a path, encoded bytes, pixels, a PIL image, or a function
    returning one.

    The first frame of animations, upright by its EXIF tag; transparency is laid on white; 16-bit
    grey is scaled to 8. Raises DataError naming the file for what is missing, truncated, not a
    picture, empty, or above max_pixels.
    """
    if callable(image) and not isinstance(image, Image.Image):
        image = image()
    if isinstance(image, np.ndarray):
        return _check_pixels(image)
    name = "an encoded image" if isinstance(image, bytes) else str(image)
    if isinstance(image, Image.Image):
        return _to_rgb(image, "a PIL image", max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is ours
            file = io.BytesIO(image) if isinstance(image, bytes) else os.fspath(image)
            with Image.open(file) as opened:
                return _to_rgb(opened, name, max_pixels)
    except FileNotFoundError:
        raise DataError(
            f"{name}: no such file; check the path, which may be relative to another folder"
        ) from None
    except IsADirectoryError:
        raise DataError(f"{name} is a folder, not a picture") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is not a picture in any known format, or its header is damaged"
        ) from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is refused: {error}") from None
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(f"{name} cannot be decoded, it may be truncated: {error}") from None


def _check_pixels(pixels: np.ndarray) -> np.ndarray:
    """Pixels as they are; grey ones in three channels. DataError for other shapes or types."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise DataError(
            f"an image array must be uint8 [H, W, 3], this is {pixels.dtype} {list(pixels.shape)}"
        )
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.shape[-1] != 3:
        raise DataError(
            f"an image array has 3 channels, this has {pixels.shape[-1]}: convert it to RGB"
        )
    return pixels


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    """Decode an opened picture, whose header alone has been read so far."""
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{name} has {width} x {height} pixels, more than the {max_pixels:,} that are "
            "decoded: scale it down"
        )
    if not width * height:
        raise DataError(f"{name} has no pixels")
    image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image, np.float32)
        deep = image.mode.startswith("I;16") or (image.mode == "I" and grey.max() > 255)
        scale = 257.0 if deep else 1.0
        image = Image.fromarray(np.clip(grey / scale + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return np.asarray(image.convert("RGB"))


def resize(pixels: np.ndarray, height: int, width: int, method: str = "bicubic") -> np.ndarray:
    """Uint8[height, width, 3], antialiased unless the method is ALIASED. KeyError for a method not
    in METHODS.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels)
    if method == ALIASED:
        whole = (0, 0, *image.size)
        extent, bilinear = Image.Transform.EXTENT, NUMBERED["bilinear"]
        return np.asarray(image.transform((width, height), extent, whole, bilinear))
    return np.asarray(image.resize((width, height), NUMBERED[method]))


def side(size: Pair) -> int:
    """That of a square. ValueError for height and width."""
    if not isinstance(size, int):
        raise ValueError(f"size={size}: height and width are for stretching and padding alone")
    return size


def stretch(pixels: np.ndarray, size: Pair, method: str = "bicubic") -> np.ndarray:
    """The whole picture at this size; its proportions change."""
    return resize(pixels, *pair(size), method)


def crop(
    pixels: np.ndarray, size: Pair, method: str = "bicubic", shortest: int | None = None
) -> np.ndarray:
    """The shortest side scaled to `shortest` (None: to `size`), then the central square.

    The longer side is rounded down, as the published preprocessors do. ValueError if shortest is
    less than size, or for what is no square.
    """
    scaled, size = _scaled(pixels, side(size), method, shortest)
    top, left = ((side - size) // 2 for side in scaled.shape[:2])
    return scaled[top : top + size, left : left + size]


def round_crop(
    pixels: np.ndarray, size: Pair, method: str = "bicubic", shortest: int | None = None
) -> np.ndarray:
    """As `crop`, from a corner that is rounded to the nearest even pixel where it would be half of
    one, as torchvision's transforms have it.
    """
    scaled, size = _scaled(pixels, side(size), method, shortest)
    top, left = (round((side - size) / 2) for side in scaled.shape[:2])
    return scaled[top : top + size, left : left + size]


def _scaled(
    pixels: np.ndarray, size: int, method: str, shortest: int | None
) -> tuple[np.ndarray, int]:
    """The picture with its shortest side at `shortest`, which holds a square of `size`."""
    shortest = shortest or size
    if shortest < size:
        raise ValueError(f"shortest={shortest} pixels hold no square of {size}: raise it")
    height, width = pixels.shape[:2]
    scale = lambda side: int(shortest * side / min(height, width))
    return resize(pixels, scale(height), scale(width), method), size


def stretch_crop(
    pixels: np.ndarray, size: Pair, method: str = "bicubic", shortest: int | None = None
) -> np.ndarray:
    """The middle of the whole picture stretched to a square of `shortest` pixels (EfficientNet)."""
    square = shortest or side(size)
    return crop(resize(pixels, square, square, method), size, method, square)


def pad(pixels: np.ndarray, size: Pair, method: str = "bicubic") -> np.ndarray:
    """The picture as large as it fits, centred on a ground of its mean colour."""
    return _on_ground(pixels, size, method, np.round(pixels.reshape(-1, 3).mean(axis=0)))


def black_pad(pixels: np.ndarray, size: Pair, method: str = "bicubic") -> np.ndarray:
    """As `pad`, on a black square (open_clip's resize_mode "longest")."""
    return _on_ground(pixels, size, method, np.zeros(3))


def _on_ground(pixels: np.ndarray, size: Pair, method: str, colour: np.ndarray) -> np.ndarray:
    wanted = pair(size)
    scale = max(side / most for side, most in zip(pixels.shape, wanted, strict=False))
    height, width = (max(1, round(side / scale)) for side in pixels.shape[:2])
    ground = np.empty((*wanted, 3), np.uint8)
    ground[:] = colour
    top, left = (wanted[0] - height) // 2, (wanted[1] - width) // 2
    ground[top : top + height, left : left + width] = resize(pixels, height, width, method)
    return ground


FITS: dict[str, Callable[..., np.ndarray]] = {
    "stretch": stretch,
    "crop": crop,
    "round_crop": round_crop,
    "stretch_crop": stretch_crop,
    "pad": pad,
    "black_pad": black_pad,
}


def fit(
    pixels: np.ndarray,
    size: Pair,
    how: str = "stretch",
    method: str = "bicubic",
    shortest: int | None = None,
) -> np.ndarray:
    """Uint8[H, W, 3] by "stretch", "crop", "round_crop" and "stretch_crop" (see there for
    `shortest`), "pad" or "black_pad". ValueError for another way or method, or to crop to what is
    no square.
    """
    if how not in FITS or method not in METHODS:
        raise ValueError(
            f"fit={how!r}, method={method!r}: choose from {sorted(FITS)} and {sorted(METHODS)}"
        )
    if how in ("crop", "round_crop", "stretch_crop"):
        return FITS[how](pixels, size, method, shortest)
    return FITS[how](pixels, size, method)


def find(folder: str | Path) -> list[Path]:
    """Every picture below a folder, by suffix, sorted. DataError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{folder} holds no picture ({', '.join(SUFFIXES)})")
    return found


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8[H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
