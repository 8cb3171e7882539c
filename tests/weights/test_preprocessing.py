"""Pictures become what the reference's preprocessors make of them."""

import importlib
import json

import numpy as np
import pytest
import skimage
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config
from torchvision import models
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.video_utils import VideoMetadata

from vlm_jax.data.pipeline import InputReader
from vlm_jax.data.video import paced
from vlm_jax.data.video_images import VideoPixels
from vlm_jax.weights import preprocessing, pretrained
from vlm_jax.weights.families import big_vision
from vlm_jax.weights.families.qwen2_vl import packed
from vlm_jax.weights.folder import WeightsError

CHINA, FLOWER = load_sample_images().images
PHOTOS = [CHINA, FLOWER[:, :301], FLOWER[:97, :64], CHINA[200:, ::-1][:, :225]]
PHOTOS += [skimage.data.astronaut(), skimage.data.coffee()]
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
    "convnext": ("ConvNextImageProcessorPil", {}),
    "convnext, cropped": (
        "ConvNextImageProcessorPil",
        dict(size={"shortest_edge": 64}, crop_pct=0.8, resample=3),
    ),
    "efficientnet": ("EfficientNetImageProcessorPil", {}),
    "efficientnet, as ALIGN has it": (
        "EfficientNetImageProcessorPil",
        dict(do_center_crop=True, rescale_factor=1 / 127.5, rescale_offset=True, resample=2)
        | dict(do_normalize=False, include_top=False),
    ),
    "efficientnet, all of it": (
        "EfficientNetImageProcessorPil",
        dict(size={"height": 61, "width": 61}, crop_size={"height": 40, "width": 40})
        | dict(do_center_crop=True, rescale_factor=1 / 100, rescale_offset=True)
        | dict(image_mean=[0.4, 0.5, 0.3], image_std=[0.2, 0.25, 0.3]),
    ),
    "bit": ("BitImageProcessorPil", {}),
    "clip, stretched before its crop": (
        "CLIPImageProcessorPil",
        dict(size={"height": 48, "width": 48}, crop_size=48, image_mean=0.4, image_std=[0.2] * 3),
    ),
    "vit, height and width": ("ViTImageProcessorPil", dict(size=[40, 40], do_convert_rgb=True)),
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
    read = InputReader(**fields)
    mean, std = (np.array(statistics[name], np.float32) for name in ("image_mean", "image_std"))
    for photo in PHOTOS:
        expected = processor(photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        pixels, _ = read(photo, None)
        assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
        ours = (pixels / np.float32(255) - mean) / std
        assert np.abs((ours - expected) * std * 255).max() < 1e-2  # of one step of 255


def test_the_oldest_files_of_resnets_say_one_number(tmp_path):
    given = dict(feature_extractor_type="ConvNextFeatureExtractor", crop_pct=0.875, size=224)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    fields, _ = preprocessing.image_fields(tmp_path)
    assert fields == dict(size=224, fit="crop", shortest=256, method="bicubic")


@pytest.mark.parametrize("case", ["clip", "siglip", "vit", "blip", "llava", "convnext"])
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
        ({"do_pad": True}, "do_pad=true is not supported"),
        ({"image_processor_type": "OwlViTImageProcessor"}, "prepared by OwlViTImageProcessor are"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {}}, "no shortest_edge"),
        ({"resample": 9}, "resample=9 is not one of"),
        ({"size": {"longest_edge": 364}}, "does not make squares of one size"),
        ({"size": {"height": 3, "width": 4}, "do_center_crop": False}, "is not square"),
        ({"do_image_splitting": True}, "do_image_splitting=true is not supported"),
        ({"image_processor_type": "Idefics3ImageProcessor", "size": 364}, "the longest_edge of"),
        ({"image_processor_type": "ViltImageProcessor", "size_divisor": 33}, "no multiple of"),
    ],
)
def test_what_is_not_supported_is_named(change, message, tmp_path):
    given = {"image_processor_type": "CLIPImageProcessor"} | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    with pytest.raises(WeightsError, match=message):
        preprocessing.image_fields(tmp_path)
    with pytest.raises(WeightsError, match="no preprocessor_config.json"):
        preprocessing.image_fields(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_pct": 0.9}, "crop_pct=0.9 is not a setting .* known here"),
        ({"resize_to": 7}, "resize_to=7 is not a setting"),
        ({"image_size": 7}, "image_size=7 is not a setting"),
        ({"fit": "tiles"}, "fit='tiles' is not a setting"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order=true is not supported"),
        ({"rescale_offset": True}, "rescale_offset=true is not supported"),
        ({"size": {"shortest_edge": 64, "longest_edge": 90}}, "does not make squares"),
        ({"size": 64, "do_center_crop": False}, "does not make squares"),
        ({"size": {"height": 64, "width": 64}, "crop_size": 48}, "does not make squares"),
        ({"image_processor_type": "LlavaNextImageProcessor"}, "prepared by LlavaNextImageProc"),
        ({"image_processor_type": "Idefics2ImageProcessorFast"}, "prepared by Idefics2Image"),
        ({"do_pan_and_scan": True}, "do_pan_and_scan=true is not supported"),
        (
            {"image_processor_type": "Gemma3ImageProcessor", "do_pan_and_scan": True, "size": 32}
            | {"do_center_crop": True, "default_to_square": False, "crop_size": 32},
            "do_pan_and_scan=true with do_center_crop=true",
        ),
        ({"image_processor_type": "Siglip2ImageProcessor", "crop_size": 4}, "crop_size=4 is not"),
    ],
)
def test_settings_that_would_change_a_picture_are_named(change, message, tmp_path):
    given = {"image_processor_type": "CLIPImageProcessor"} | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    with pytest.raises(WeightsError, match=message):
        preprocessing.image_fields(tmp_path)


def test_settings_that_change_no_picture_are_left_aside(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    expected = preprocessing.image_fields(tmp_path)
    idle = dict.fromkeys(("crop_size", "do_center_crop", "image_mean", "size", "crop_pct"))
    idle |= dict(
        do_pad=False, do_convert_rgb=True, processor_class="CLIPProcessor", rescale_offset=False
    )
    for name in ("CLIPImageProcessorFast", "CLIPFeatureExtractor", "CLIPImageProcessorPil"):
        path.write_text(json.dumps(idle | {"image_processor_type": name}))
        assert preprocessing.image_fields(tmp_path) == expected
    path.unlink()
    nested = {"image_processor": {"image_processor_type": "CLIPImageProcessor"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert preprocessing.image_fields(tmp_path) == expected


DEFAULTS = ("CLIP", "Siglip", "Siglip2", "ViT", "Blip", "Llava", "Gemma3", "ConvNext", "Bit")
DEFAULTS += ("EfficientNet",)
DEFAULTS += ("VideoMAE", "Vilt", "Qwen2VL", "Idefics3", "Idefics", "SmolVLM")


@pytest.mark.parametrize("kind", DEFAULTS)
def test_every_class_has_the_reference_s_defaults(kind, tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": f"{kind}ImageProcessor"}))
    short = preprocessing.image_fields(tmp_path)
    pil(kind).save_pretrained(tmp_path)
    whole = preprocessing.image_fields(tmp_path)
    assert short[0] == whole[0]
    for name in ("image_mean", "image_std"):
        np.testing.assert_allclose(short[1][name], whole[1][name])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unheard_of": 1}))
    with pytest.raises(WeightsError, match="unheard_of=1"):
        preprocessing.image_fields(tmp_path)


@pytest.mark.parametrize("kind", ["CLIP", "ViT", "Blip", "Llava", "Bit", "VideoMAE", "Gemma3"])
def test_a_size_that_is_one_number_means_what_the_class_says(kind, tmp_path):
    given = dict(image_processor_type=f"{kind}ImageProcessor", size=40, crop_size=40)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    read, normalised = cut(tmp_path)
    processor = pil(kind, size=40, crop_size=40)
    expected = processor(CHINA, return_tensors="np")["pixel_values"].reshape(3, 40, 40)
    close(normalised(read(CHINA, None)[0]), expected.transpose(1, 2, 0))


def cut(folder):
    """Our reader for a folder, and from pixels of ours to the reference's values."""
    return reading(*preprocessing.image_fields(folder))


def reading(fields, statistics):
    """The same for what a folder says, or for what is usual where it says nothing."""
    mean, std = (np.array(statistics[name], np.float32) for name in ("image_mean", "image_std"))
    return InputReader(**fields), lambda pixels: (pixels / np.float32(255) - mean) / std


def close(ours, expected):
    """Within a hundredth of one step of 255; deviations are at least 0.25."""
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() * 0.25 * 255 < 1e-2


def pil(name, **options):
    family = dict(Qwen2VL="qwen2_vl").get(name, name.lower())
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, f"{name}ImageProcessorPil")(**options)


@pytest.mark.parametrize("options", [{}, dict(size={"shortest_edge": 100}, resample=2)])
def test_vilt_s_pictures_keep_their_proportions_on_a_canvas(options, tmp_path):
    processor = pil("Vilt", **options)
    processor.save_pretrained(tmp_path)
    read, normalised = cut(tmp_path)
    for photo in PHOTOS:
        expected = processor(photo, return_tensors="np")
        height, width = expected["pixel_values"].shape[2:]
        made, _ = read(photo, None)
        side = len(made["pixels"])
        shown = normalised(made["pixels"][:height, :width])
        close(shown, expected["pixel_values"][0].transpose(1, 2, 0))
        assert not made["pixels"][height:].any() and not made["pixels"][:, width:].any()
        real = np.zeros((side // 32, side // 32), bool)
        real[: height // 32, : width // 32] = True
        np.testing.assert_array_equal(made["mask"], real.reshape(-1))


@pytest.mark.parametrize("options", [{}, dict(patch_size=14, max_num_patches=50)])
def test_naflex_pictures_have_at_most_so_many_patches(options, tmp_path):
    processor = pil("Siglip2", **options)
    processor.save_pretrained(tmp_path)
    read, normalised = cut(tmp_path)
    for photo in PHOTOS:
        expected = processor(photo, return_tensors="np")
        made, _ = read(photo, None)
        real = made["mask"]
        np.testing.assert_array_equal(real, expected["pixel_attention_mask"][0])
        np.testing.assert_array_equal(made["shapes"], expected["spatial_shapes"][0])
        shown = normalised(made["pixels"][real].reshape(real.sum(), -1, 3))
        close(shown.reshape(real.sum(), -1), expected["pixel_values"][0][real])
        assert not made["pixels"][~real].any()


NATIVE = [{}, dict(min_pixels=400 * 400, max_pixels=500 * 400), dict(patch_size=10, merge_size=3)]


@pytest.mark.parametrize("options", NATIVE)
def test_qwen2_vl_s_pictures_keep_their_size(options, tmp_path):
    processor = pil("Qwen2VL", **options)
    processor.save_pretrained(tmp_path)
    read, normalised = cut(tmp_path)
    patch, side = processor.patch_size, processor.merge_size
    for photo in [*PHOTOS, CHINA[:20, :300]]:
        expected = processor(photo, return_tensors="np")
        _, rows, columns = expected["image_grid_thw"][0]
        made, _ = read(photo, None)
        count = rows * columns
        assert made["grid"].tolist() == [rows // side, columns // side]
        np.testing.assert_array_equal(made["segments"], np.arange(len(made["pixels"])) < count)
        shown = normalised(made["pixels"][:count].reshape(count, -1, 3))
        theirs = expected["pixel_values"].reshape(count, 3, 2, patch**2)[:, :, 0].swapaxes(1, 2)
        close(shown, theirs)
        places, segments = packed(expected["image_grid_thw"], count, side)
        np.testing.assert_array_equal(made["places"][:count], places)
        assert np.all(segments == 1)


def video_fields(folder, **options):
    """The reference's processor of videos with these settings, and our reader of its folder."""
    processor = Qwen2VLVideoProcessor(**options)
    pil("Qwen2VL").save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor, preprocessing.image_fields(folder)[0]


@pytest.mark.parametrize(
    "options", [dict(fps=2), dict(fps=1.7, min_frames=6, max_frames=21, temporal_patch_size=3)]
)
def test_videos_are_read_at_the_rate_that_a_folder_says(options, tmp_path):
    processor, fields = video_fields(tmp_path, **options)
    for total, rate in [(2, 30.0), (5, 25.0), (77, 24.0), (300, 30.0), (641, 29.97), (9000, 12.5)]:
        metadata = VideoMetadata(total_num_frames=total, fps=rate)
        if total < fields["pace"]["depth"]:
            continue  # where the reference has no answer
        expected = processor.sample_frames(metadata).tolist()
        assert paced(total, rate, **fields["pace"]) == expected
    assert paced(1, 25.0, **fields["pace"]) == [0]
    memory = VideoPixels(np.zeros((20, 56, 56, 3), np.uint8))  # which has no clock
    made, _ = InputReader(**fields)(memory, None)
    assert made["segments"].max() == -(-16 // fields["pace"]["depth"])
    with pytest.raises(WeightsError, match="num_frames exclude each other"):
        video_fields(tmp_path, fps=2, num_frames=4)


def test_frames_share_the_pixels_that_a_folder_allows_all_of_them(tmp_path):
    size = dict(shortest_edge=20 * 28 * 28, longest_edge=500 * 28 * 28)
    options = dict(size=size, cap_pixels_per_frame=True, max_video_tokens=300)
    processor, fields = video_fields(tmp_path, **options)
    for count in (2, 5, 12):
        frames = np.stack([CHINA[:300, i : i + 400] for i in range(count)])
        expected = processor([frames], do_sample_frames=False, return_tensors="np")
        times, rows, columns = expected["video_grid_thw"][0]
        made, _ = InputReader(**fields | dict(frames=count))(VideoPixels(frames), None)
        assert made["grid"].tolist() == [times * rows // 2, columns // 2]


TILED = {
    "Idefics3": {},
    "SmolVLM": dict(size={"longest_edge": 1000}, max_image_size={"longest_edge": 256}),
    "whole": dict(do_image_splitting=False, size={"longest_edge": 700}, resample=3),
    "one tile": dict(size={"longest_edge": 300}),
    "huge": dict(size={"longest_edge": 5000}, max_image_size={"longest_edge": 1400}),
}


@pytest.mark.parametrize("case", TILED)
def test_idefics3_s_pictures_are_cut_into_tiles(case, tmp_path):
    name = case if case in ("Idefics3", "SmolVLM") else "Idefics3"
    processor = pil(name, **TILED[case])
    processor.save_pretrained(tmp_path)
    read, normalised = cut(tmp_path)
    for photo in PHOTOS[:2] if case == "huge" else PHOTOS:
        expected = processor(photo, return_tensors="np", return_row_col_info=True)
        made, _ = read(photo, None)
        close(normalised(made["pixels"]), expected["pixel_values"][0].transpose(0, 2, 3, 1))
        assert made["tiles"].all() and np.all(expected["pixel_attention_mask"] == 1)
        assert made["grid"].tolist() == [expected["rows"][0][0], expected["cols"][0][0]]


CROPPED = {
    "usual": dict(size=dict(height=48, width=48)),
    "small": dict(pan_and_scan_min_crop_size=60, pan_and_scan_max_num_crops=3),
    "rarely": dict(pan_and_scan_min_ratio_to_activate=1.6, pan_and_scan_min_crop_size=32),
    "one": dict(pan_and_scan_min_crop_size=20, pan_and_scan_max_num_crops=1),
}


@pytest.mark.parametrize("case", CROPPED)
def test_gemma3_s_pictures_are_cut_beside_the_whole(case, tmp_path):
    """With the sizes that the reference's processor has where a folder is silent."""
    usual = {f"pan_and_scan_{key}": value for key, value in preprocessing.CROPS.items()}
    processor = pil("Gemma3", do_pan_and_scan=True, **usual | CROPPED[case])
    pil("Gemma3", do_pan_and_scan=True, **CROPPED[case]).save_pretrained(tmp_path)
    read, normalised = cut(tmp_path)
    counts = []
    for photo in [*PHOTOS, CHINA[100:300], CHINA[:, :150], CHINA[:61], FLOWER[:301, 7:308]]:
        expected = processor(photo, return_tensors="np")
        made, _ = read(photo, None)
        shown = np.stack(list(expected["pixel_values"])).transpose(0, 2, 3, 1)
        close(normalised(made["pixels"]), shown)
        counts.append(int(made["grid"].prod()))
        assert counts[-1] == expected["num_crops"][0] == len(made["tiles"]) - 1
        assert made["tiles"].all() and (photo.shape[1] >= photo.shape[0]) >= (made["grid"][1] > 1)
    assert max(counts) > 0 == min(counts) and (case != "small" or {2, 3} <= {*counts})


def test_the_first_idefics_squeezes_pictures_into_squares(tmp_path):
    processor = pil("Idefics", image_size=70)
    given = dict(image_processor_type="IdeficsImageProcessor", image_size=70)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    read, normalised = cut(tmp_path)
    expected = np.asarray(processor(CHINA, return_tensors="np"))[0].transpose(1, 2, 0)
    close(normalised(read(CHINA, None)[0]), expected)


OPEN_CLIP = {
    "usual": {},
    "squashed": dict(size=[50, 50], resize_mode="squash", interpolation="bilinear"),
    "odd margins": dict(size=45, mean=[0.5] * 3, std=[0.5] * 3),
    "all of it on black": dict(size=51, resize_mode="longest"),
}


@pytest.mark.parametrize("case", OPEN_CLIP)
def test_open_clip_folders_say_it_in_their_config(case, tmp_path):
    config = dict(model_cfg=dict(vision_cfg=dict(image_size=64)), preprocess_cfg=OPEN_CLIP[case])
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    read, normalised = cut(tmp_path)
    given = dict(size=64) | OPEN_CLIP[case]
    transform = image_transform_v2(PreprocessCfg(**given), is_train=False)
    for photo in PHOTOS:
        expected = transform(Image.fromarray(photo)).numpy().transpose(1, 2, 0)
        close(normalised(read(photo, None)[0]), expected)


CLASSIFIERS = {
    "torchvision VGG": (
        dict(model_type="torchvision", arch="vgg16"),
        models.VGG16_Weights.IMAGENET1K_V1.transforms(),
    ),
    "torchvision ResNet": (
        dict(model_type="torchvision", arch="resnet50"),
        models.ResNet50_Weights.IMAGENET1K_V1.transforms(),
    ),
}


def timm_s(name, tells):
    """tells: whether its folder says how pictures are read."""
    given = timm.get_pretrained_cfg(name).to_dict()
    config = dict(architecture=name) | (dict(pretrained_cfg=given) if tells else {})
    return config, create_transform(**resolve_data_config(given))


CLASSIFIERS |= {
    f"timm {name}": timm_s(name, tells=False)
    for name in [f"tf_efficientnet_lite{number}" for number in range(5)] + ["vgg16"]
}
CLASSIFIERS |= {
    f"timm {name}, told": timm_s(name, tells=True) for name in ("resnet50", "tf_efficientnet_lite4")
}


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classifiers_without_a_preprocessor_s_file(case):
    """What torchvision and timm do where weights are evaluated."""
    config, transform = CLASSIFIERS[case]
    read, normalised = reading(*pretrained.family_of(config).pictures(config))
    for photo in PHOTOS:
        expected = transform(Image.fromarray(photo)).numpy().transpose(1, 2, 0)
        close(normalised(read(photo, None)[0]), expected)


def test_big_vision_stretches_without_antialiasing():
    fields, statistics = big_vision.pictures({})
    assert statistics == dict(image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
    read = InputReader(**fields)
    for photo in PHOTOS:
        picture = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].double()
        drawn = torch.nn.functional.interpolate(picture, (224, 224), mode="bilinear")
        below = drawn[0].permute(1, 2, 0).numpy() - read(photo, None)[0]
        assert -1e-6 < below.min() and below.max() < 1 + 1e-6  # rounded down


def test_what_open_clip_could_do_otherwise_is_named(tmp_path):
    for field, value in (("resize_mode", "fold"), ("fill_color", 255)):
        config = dict(preprocess_cfg=dict(size=64) | {field: value})
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(WeightsError, match=f"{field}={value!r} is not supported"):
            preprocessing.image_fields(tmp_path)
