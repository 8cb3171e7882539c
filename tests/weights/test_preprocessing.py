"""Pictures become what the reference's preprocessors make of them."""

import importlib
import json

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from vlm_jax.data.pipeline import ImageReader
from vlm_jax.weights import preprocessing
from vlm_jax.weights.folder import WeightsError

CHINA, FLOWER = load_sample_images().images
PHOTOS = [CHINA, FLOWER[:, :301], FLOWER[:97, :64], CHINA[200:, ::-1][:, :225]]
PROCESSORS = {
    "clip": ("CLIPImageProcessorPil", {}),
    "clip, larger resize": (
        "CLIPImageProcessorPil",
        dict(size={"shortest_edge": 61}, crop_size=48),
    ),
    "clip, square": (
        "CLIPImageProcessorPil",
        dict(size={"height": 40, "width": 40}, do_center_crop=False, resample=2),
    ),
    "siglip": ("SiglipImageProcessorPil", {}),
    "vit": ("ViTImageProcessorPil", {}),
    "blip": ("BlipImageProcessorPil", {}),
    "llava": ("LlavaImageProcessorPil", {}),
    "gemma3": ("Gemma3ImageProcessorPil", dict(size={"height": 96, "width": 96})),
    "lanczos": ("SiglipImageProcessorPil", dict(resample=1, size={"height": 50, "width": 50})),
    "unnormalised": ("ViTImageProcessorPil", dict(do_normalize=False)),
}


def make(case: str):
    name, options = PROCESSORS[case]
    family = name.removesuffix("ImageProcessorPil").lower()
    module = f"transformers.models.{family}.image_processing_pil_{family}"
    return getattr(importlib.import_module(module), name)(**options)


@pytest.mark.parametrize("case", PROCESSORS)
def test_pixels_are_the_reference_s(case, tmp_path):
    processor = make(case)
    processor.save_pretrained(tmp_path)
    fields, statistics = preprocessing.image_fields(tmp_path)
    read = ImageReader(**fields)
    mean, std = (np.array(statistics[name], np.float32) for name in ("image_mean", "image_std"))
    for photo in PHOTOS:
        expected = processor(photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        pixels, _ = read(photo, None)
        assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
        ours = (pixels / np.float32(255) - mean) / std
        assert np.abs((ours - expected) * std * 255).max() < 1e-2  # of one step of 255


@pytest.mark.parametrize("case", ["clip", "siglip", "vit", "blip", "llava"])
def test_keys_that_a_file_leaves_out_mean_the_class_s_defaults(case, tmp_path):
    kind = type(make(case)).__name__.removesuffix("Pil")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": kind}))
    short = preprocessing.image_fields(tmp_path)
    make(case).save_pretrained(tmp_path)
    whole = preprocessing.image_fields(tmp_path)
    assert short[0] == whole[0]
    np.testing.assert_allclose(short[1]["image_mean"], whole[1]["image_mean"])
    np.testing.assert_allclose(short[1]["image_std"], whole[1]["image_std"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "do_resize=False is not supported"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=.* is not 1 / 255"),
        ({"resample": 9}, "resample=9 is not one of"),
        ({"size": {"longest_edge": 364}}, "does not make squares of one size"),
        ({"size": {"height": 3, "width": 4}, "do_center_crop": False}, "is not square"),
        ({"do_image_splitting": True}, "do_image_splitting=true is not supported"),
    ],
)
def test_what_is_not_supported_is_named(change, message, tmp_path):
    given = {"image_processor_type": "CLIPImageProcessor"} | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    with pytest.raises(WeightsError, match=message):
        preprocessing.image_fields(tmp_path)
    with pytest.raises(WeightsError, match="no preprocessor_config.json"):
        preprocessing.image_fields(tmp_path / "elsewhere")
