"""Fonts by name, out of pip packages, so that every machine draws the same letters.

`pip install 'vlm_jax[words]'` brings them: DejaVu, STIX and Computer Modern inside matplotlib (free
licences of their own), the others in the font-* packages of Pimoroni's fonts-python (SIL Open Font
License; Caladea: Apache 2.0). System fonts are not used: they differ from machine to machine.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from vlm_jax.data.schema import DataError
from vlm_jax.kwargs import lookup

_MATPLOTLIB = "mpl-data/fonts/ttf/"

FONTS = {
    "dejavu sans": ("matplotlib", f"{_MATPLOTLIB}DejaVuSans.ttf"),
    "dejavu sans bold": ("matplotlib", f"{_MATPLOTLIB}DejaVuSans-Bold.ttf"),
    "dejavu sans oblique": ("matplotlib", f"{_MATPLOTLIB}DejaVuSans-Oblique.ttf"),
    "dejavu serif": ("matplotlib", f"{_MATPLOTLIB}DejaVuSerif.ttf"),
    "dejavu serif bold": ("matplotlib", f"{_MATPLOTLIB}DejaVuSerif-Bold.ttf"),
    "dejavu serif italic": ("matplotlib", f"{_MATPLOTLIB}DejaVuSerif-Italic.ttf"),
    "dejavu mono": ("matplotlib", f"{_MATPLOTLIB}DejaVuSansMono.ttf"),
    "stix": ("matplotlib", f"{_MATPLOTLIB}STIXGeneral.ttf"),
    "stix bold": ("matplotlib", f"{_MATPLOTLIB}STIXGeneralBol.ttf"),
    "stix italic": ("matplotlib", f"{_MATPLOTLIB}STIXGeneralItalic.ttf"),
    "computer modern": ("matplotlib", f"{_MATPLOTLIB}cmr10.ttf"),
    "computer modern mono": ("matplotlib", f"{_MATPLOTLIB}cmtt10.ttf"),
    "source sans": ("font_source_sans_pro", "files/SourceSansPro-Regular.ttf"),
    "source sans bold": ("font_source_sans_pro", "files/SourceSansPro-Bold.ttf"),
    "source serif": ("font_source_serif_pro", "files/SourceSerifPro-Regular.ttf"),
    "source serif bold": ("font_source_serif_pro", "files/SourceSerifPro-Bold.ttf"),
    "source serif italic": ("font_source_serif_pro", "files/SourceSerifPro-It.ttf"),
    "manrope": ("font_manrope", "files/Manrope-Medium.ttf"),
    "hanken grotesk": ("font_hanken_grotesk", "files/HankenGrotesk-Regular.otf"),
    "caladea": ("font_caladea", "files/Caladea-Regular.ttf"),
    "fredoka": ("font_fredoka_one", "files/FredokaOne-Regular.ttf"),
}
"""Name -> the module of the package that holds the file, and where in it."""


def font_file(name: str) -> Path:
    """The file of a font: one of FONTS, or a path that ends in .ttf or .otf.

    DataError, with the command that brings it, if it is not there; ValueError for another name.
    """
    if name.endswith((".ttf", ".otf")):
        path = Path(name).expanduser()
        advice = "check the path, which may be relative to another folder"
    else:
        package, inside = lookup(FONTS, name, "fonts")
        found = find_spec(package)
        folders = [] if found is None else found.submodule_search_locations or []
        path = Path(*folders[:1], inside)
        advice = f"run: pip install {package.replace('_', '-')}"
    if not path.is_file():
        raise DataError(f"fonts: {name!r} is not at {path}; {advice}")
    return path


@lru_cache(maxsize=1024)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels (of the em square). DataError if the file is missing or damaged,
    ValueError for an unknown name.
    """
    path = font_file(name)
    try:
        # The basic layout is the same on every machine; Raqm is not always there.
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(f"fonts: {path} is not a font, or damaged: {error}") from None
