"""Qwen2-VL."""

import numpy as np
import pytest
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError, open_tensors
from vlm_jax.weights.pretrained import count, read_folder

SMALL = dict(vocab_size=60, max_position_embeddings=64, eos_token_id=None, bos_token_id=None)
TOKENS = dict(image_token_id=58, video_token_id=57, vision_start_token_id=56)
CASES = {
    "usual": (
        dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
        | dict(intermediate_size=24, rms_norm_eps=1e-3)
        | dict(rope_parameters=dict(rope_type="default", rope_theta=90.0, mrope_section=[1, 1, 2])),
        dict(depth=2, embed_dim=24, hidden_size=32, num_heads=3, mlp_ratio=2, patch_size=4),
        {},
    ),
    "tied, blocks of nine, windows": (
        dict(hidden_size=24, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3)
        | dict(intermediate_size=20, use_sliding_window=True, sliding_window=4, max_window_layers=1)
        | dict(rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 3, 1])),
        dict(depth=3, embed_dim=16, hidden_size=24, num_heads=2, mlp_ratio=3, patch_size=2)
        | dict(spatial_merge_size=3, temporal_patch_size=1, hidden_act="gelu"),
        dict(tie_word_embeddings=True),
    ),
}


def build(case):
    text, vision, other = CASES[case]
    config = Qwen2VLConfig(text_config=SMALL | text, vision_config=vision, **TOKENS, **other)
    return parity.randomise(Qwen2VLForConditionalGeneration(config))


def texts(model):
    """Two images in the first row; one of two frames, after padding, in the second."""
    vision = model.config.vision_config
    side = vision.spatial_merge_size
    grids = np.array([[1, 2, 3], [1, 1, 2], [2, 2, 1]]) * [1, side, side]
    patches, depth = int(grids.prod(axis=1).sum()), 3 * vision.temporal_patch_size
    image = [np.full(grid.prod() // side**2, 58) for grid in grids]
    words = parity.tokens(2, 20, 50)
    first = [words[0, :2], image[0], words[0, 2:3], image[1], words[0, 3:5]]
    second = [words[1, :3], words[1, :4], image[2], words[1, 4:6]]
    ids = np.stack([np.concatenate(first), np.concatenate(second)])
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    types = (ids == 58).astype(np.int32)
    pixels = parity.pixels(patches, depth * vision.patch_size**2)
    text = dict(input_ids=ids, attention_mask=mask, mm_token_type_ids=types)
    return text | dict(pixel_values=pixels, image_grid_thw=grids)


def ask(model, given):
    """The logits of real tokens: others are nobody's business."""
    return {"logits": model(**given).logits * given["attention_mask"][..., None]}


@pytest.mark.parametrize("case", CASES)
def test_qwen2_vl(case, tmp_path):
    model = build(case)
    inputs = texts(model)
    whole = {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])}
    parity.check(model, whole, tmp_path, writes=inputs)
    names = set(open_tensors(tmp_path / "exported"))
    assert names >= {
        "visual.patch_embed.proj.weight",
        "visual.merger.mlp.2.bias",
        "model.layers.0.self_attn.q_proj.bias",
    }
    loaded, real = read_folder(tmp_path / "exported"), inputs["attention_mask"][..., None]
    expected = parity.outputs(model, inputs, ask, ("logits",))
    found = parity.run(loaded, "forward", inputs)["logits"] * real
    parity.compare({"logits": found}, expected, 1e-5)
    if case == "usual":
        text = dict(input_ids=inputs["input_ids"][:, :2])
        expected = parity.outputs(model, text, lambda m, i: m(**i), ("logits",))
        parity.compare(parity.run(loaded, "forward", text), expected, 1e-5)


def test_videos_stand_among_images(tmp_path):
    model = build("usual")
    side = model.config.vision_config.spatial_merge_size
    stills = np.array([[1, 2, 1], [1, 1, 2]]) * [1, side, side]
    videos = np.array([[3, 1, 2], [2, 2, 1]]) * [1, side, side]
    run = lambda grid, token: np.full(grid.prod() // side**2, token)
    words = parity.tokens(2, 12, 50)
    first = [words[0, :2], run(videos[0], 57), words[0, 2:3], run(stills[0], 58), words[0, 3:5]]
    second = [words[1, :4], run(stills[1], 58), words[1, 4:5], run(videos[1], 57), words[1, 5:7]]
    ids = np.stack([np.concatenate(first), np.concatenate(second)])
    types = np.where(ids == 57, 2, ids == 58).astype(np.int32)
    width = 3 * model.config.vision_config.temporal_patch_size * 4**2
    pixels = lambda grids, seed: parity.pixels(grids.prod(axis=1).sum(), width, seed=seed)
    inputs = dict(input_ids=ids, attention_mask=np.ones_like(ids), mm_token_type_ids=types)
    inputs |= dict(pixel_values=pixels(stills, 0), image_grid_thw=stills)
    inputs |= dict(pixel_values_videos=pixels(videos, 1), video_grid_thw=videos)
    model.save_pretrained(tmp_path)
    loaded = read_folder(tmp_path)
    expected = parity.outputs(model, inputs, lambda m, i: m(**i), ("logits",))
    parity.compare(parity.run(loaded, "forward", inputs), expected, 1e-5)
    flags = dict(max_new_tokens=4, do_sample=False)
    expected = model.generate(**parity.tensors_of(inputs), **flags).numpy()
    found = loaded.call("generate", inputs, flags)["tokens"]
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    del inputs["mm_token_type_ids"]
    with pytest.raises(ValueError, match="needs mm_token_type_ids"):
        parity.run(loaded, "forward", inputs)


def published(width, mlp, heads, kv_heads, vocab, tied):
    """As the releases have it: the text's keys beside the others."""
    vision = dict(depth=32, embed_dim=1280, mlp_ratio=4, num_heads=16, in_chans=3)
    vision |= dict(hidden_size=width, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
    text = dict(hidden_size=width, intermediate_size=mlp, num_hidden_layers=28)
    text |= dict(num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=vocab)
    rope = dict(type="mrope", mrope_section=[16, 24, 24])
    other = dict(model_type="qwen2_vl", tie_word_embeddings=tied, rope_theta=1e6, rope_scaling=rope)
    return other | text | dict(vision_config=vision, sliding_window=32768, max_window_layers=28)


COUNTS = {
    "Qwen2-VL-2B-Instruct": (published(1536, 8960, 12, 2, 151936, True), 2_208_985_600),
    "Qwen2-VL-7B-Instruct": (published(3584, 18944, 28, 4, 152064, False), 8_291_375_616),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    config, expected = COUNTS[name]
    assert count(config) == expected


def test_what_is_not_supported_is_named():
    rope = dict(type="mrope", mrope_section=[16, 24])
    with pytest.raises(WeightsError, match="mrope_section"):
        count(COUNTS["Qwen2-VL-2B-Instruct"][0] | dict(rope_scaling=rope))
