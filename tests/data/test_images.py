"""Decoding what users have, refusing what cannot be used, and fitting pictures to a square."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vlm_jax.data import images
from vlm_jax.data.schema import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    """The bytes of a file that holds a PIL image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, content):
    """One chunk of a PNG file."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png_header(width, height):
    """A PNG file that promises a picture and holds next to nothing of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + content + chunk(b"IEND", b"")


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS)))
    forms = [path, str(path), path.read_bytes(), PIXELS, Image.fromarray(PIXELS)]
    for form in [*forms, lambda: PIXELS, lambda: path]:
        decoded = images.decode(form)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, PIXELS)


def test_transparency_is_laid_on_white():
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    expected = [[[200, 0, 0], [255, 255, 255], [244, 204, 204]]]
    assert images.decode(encoded(Image.fromarray(rgba))).tolist() == expected
    grey = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    assert images.decode(encoded(grey)).tolist() == [[[10] * 3, [255] * 3]]


def test_palettes_with_and_without_a_transparent_colour():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    assert images.decode(encoded(palette)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    clear = encoded(palette, transparency=1)
    assert images.decode(clear).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_grey_one_bit_and_sixteen_bit():
    grey = np.array([[0, 100, 255]], np.uint8)
    triple = np.repeat(grey[..., None], 3, axis=-1).tolist()
    assert images.decode(encoded(Image.fromarray(grey))).tolist() == triple
    assert images.decode(grey).tolist() == triple
    assert images.decode(encoded(Image.fromarray(grey.astype(np.uint16) * 257))).tolist() == triple
    bits = Image.fromarray(np.array([[False, True]]))
    assert images.decode(encoded(bits)).tolist() == [[[0] * 3, [255] * 3]]


def test_a_dark_sixteen_bit_picture_stays_dark():
    dark = np.full((2, 2), 200, np.uint16)
    assert images.decode(encoded(Image.fromarray(dark))).max() == 1


def test_cmyk():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    decoded = images.decode(encoded(cyan, "TIFF"))
    assert decoded[0, 0].tolist() == [0, 255, 255]
    assert np.abs(images.decode(encoded(cyan, "JPEG")) - decoded.astype(int)).max() < 12


def test_exif_orientation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    upright = np.rot90(PIXELS, k=-1)
    decoded = images.decode(encoded(Image.fromarray(PIXELS), exif=exif))
    assert np.array_equal(decoded, upright)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.decode(gif)[0, 0].tolist() == [255, 0, 0]
    webp = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert images.decode(webp)[0, 0].tolist() == [255, 0, 0]
    animation = Image.open(io.BytesIO(gif))
    animation.seek(2)
    assert images.decode(animation)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_named(tmp_path, kind):
    path = tmp_path / "cut"
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(encoded(noise, kind)[:2000])
    with pytest.raises(DataError, match=r"cut cannot be decoded, it may be truncated"):
        images.decode(path)
    with pytest.raises(DataError, match="an encoded image cannot be decoded"):
        images.decode(path.read_bytes())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_damaged_file_is_decoded_or_refused_but_raises_nothing_else(kind):
    whole, refused = encoded(Image.fromarray(PIXELS), kind), 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=3)] = rng.integers(256, size=3)
        try:
            assert images.decode(damaged.tobytes()).dtype == np.uint8
        except DataError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "error", [RuntimeError("no planes"), TypeError("no integer"), struct.error("too short")]
)
def test_whatever_a_reader_raises_becomes_an_error_about_the_file(monkeypatch, error):
    def damaged(self):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", damaged)
    with pytest.raises(DataError, match=f"cannot be decoded, it may be truncated: {error}"):
        images.decode(encoded(Image.fromarray(PIXELS)))


def test_files_that_are_no_pictures_are_named(tmp_path):
    text, empty = tmp_path / "notes.png", tmp_path / "empty.png"
    text.write_text("hello")
    empty.touch()
    for path in (text, empty):
        with pytest.raises(DataError, match=f"{path.name} is not a picture"):
            images.decode(path)
    with pytest.raises(DataError, match=r"nowhere.png: no such file"):
        images.decode(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="is a folder"):
        images.decode(tmp_path)


def test_a_bomb_is_refused_from_its_header_without_allocating(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30_000, 30_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"bomb\.png .*(30000 x 30000|900000000) ?pixels"):
        images.decode(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # KiB; decoded it would be 2,700,000


def test_the_limit_on_pixels_is_ours_and_exact():
    png = encoded(Image.fromarray(PIXELS))
    assert images.decode(png, max_pixels=35).shape == (5, 7, 3)
    with pytest.raises(DataError, match=r"7 x 5 pixels, more than the 34"):
        images.decode(png, max_pixels=34)
    with pytest.raises(DataError, match=r"12000 x 10000 pixels"):  # Pillow only warns about these
        images.decode(png_header(12_000, 10_000))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 3), np.float32),
        np.zeros((0, 2, 3), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
    ],
)
def test_arrays_of_another_form_are_refused(array):
    with pytest.raises(DataError, match="an image array"):
        images.decode(array)


def test_an_empty_pil_image_is_refused():
    with pytest.raises(DataError, match="no pixels"):
        images.decode(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("how", sorted(images.FITS))
@pytest.mark.parametrize("method", sorted(images.METHODS))
@pytest.mark.parametrize("shape", [(5, 7), (40, 3), (1, 1), (8, 8)])
def test_every_fit_gives_a_square_of_bytes(how, method, shape):
    pixels = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    fitted = images.fit(pixels, 8, how, method)
    assert fitted.shape == (8, 8, 3)
    assert fitted.dtype == np.uint8
    if shape == (8, 8):
        assert np.array_equal(fitted, pixels)


def test_what_each_fit_keeps_of_a_wide_picture():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8], wide[:, 8:16], wide[:, 16:] = (240, 0, 0), (0, 240, 0), (0, 0, 240)
    assert (images.crop(wide, 8) == (0, 240, 0)).all()
    stretched = images.stretch(wide, 24)
    assert stretched[12, [2, 12, 21]].tolist() == [[240, 0, 0], [0, 240, 0], [0, 0, 240]]
    padded = images.pad(wide, 24)
    assert np.array_equal(padded[8:16], wide)
    assert (padded[:8] == 80).all() and (padded[16:] == 80).all()


def test_sizes_may_be_height_and_width():
    wide = RNG.integers(0, 256, (4, 12, 3), dtype=np.uint8)
    assert np.array_equal(images.fit(wide, (4, 12)), wide)
    padded = images.fit(wide, (8, 16), "pad", "nearest")
    assert padded.shape == (8, 16, 3)
    inner = padded[1:6]  # 4 x 12 grows to 5 x 16
    assert np.array_equal(inner, images.resize(wide, 5, 16, "nearest"))
    assert (padded[[0, 6, 7]] == np.round(wide.reshape(-1, 3).mean(axis=0))).all()
    for how in ("crop", "round_crop"):
        with pytest.raises(ValueError, match="height and width are for stretching and padding"):
            images.fit(wide, (8, 16), how)


def test_shrinking_is_antialiased():
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = images.resize(np.repeat(board[..., None], 3, axis=-1), 8, 8)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 128).max() <= 2


def test_unknown_fits_and_methods_are_refused():
    for options in ({"how": "squeeze"}, {"method": "cubic"}):
        with pytest.raises(
            ValueError, match=r"choose from \['black_pad', 'crop', 'pad', 'round_crop'"
        ):
            images.fit(PIXELS, 8, **options)


def test_finding_pictures(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "a.jpeg", "deep/c.webp", "notes.txt"):
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in images.find(tmp_path)]
    assert names == ["a.jpeg", "b.PNG", "deep/c.webp"]
    with pytest.raises(DataError, match="is not a folder"):
        images.find(tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        images.find(tmp_path / "void")


def test_png_holds_every_pixel():
    assert np.array_equal(images.decode(images.encode_png(PIXELS)), PIXELS)
