"""Exact sizes of the parts of published networks, where the whole could be right by chance."""

import re
from functools import lru_cache

import pytest

from vlm_jax import trees
from vlm_jax.weights.pretrained import family_of, shapes_of

LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
LARGE |= dict(intermediate_size=4096, patch_size=14)
CLIP_LARGE = dict(
    model_type="clip",
    vision_config=LARGE,
    text_config=dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072),
    projection_dim=768,
)
SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27)
SO400M |= dict(num_attention_heads=16, patch_size=14, image_size=224, vision_use_head=False)
GEMMA = dict(model_type="gemma", hidden_size=2048, num_hidden_layers=18, intermediate_size=16_384)
GEMMA |= dict(num_attention_heads=8, num_key_value_heads=1, head_dim=256, vocab_size=257_216)
RN50 = dict(
    embed_dim=1024,
    quick_gelu=True,
    vision_cfg=dict(layers=[3, 4, 6, 3], width=64, image_size=224, patch_size=None),
    text_cfg=dict(context_length=77, vocab_size=49_408, width=512, heads=8, layers=12),
)
FOLDERS = {
    "BERT": dict(model_type="bert"),
    "BLIP-2": dict(
        model_type="blip-2",
        text_config=dict(model_type="opt", vocab_size=50_272)
        | dict(hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, ffn_dim=10_240),
    ),
    "BLIP": dict(
        model_type="blip",
        architectures=["BlipForConditionalGeneration"],
        vision_config=dict(image_size=384, patch_size=16),
        text_config=dict(num_attention_heads=12, encoder_hidden_size=768),
    ),
    "CLIP B/32": dict(model_type="clip"),
    "CLIP L/14": CLIP_LARGE,
    "CLIP L/14@336": CLIP_LARGE | dict(vision_config=LARGE | dict(image_size=336)),
    "CLIP RN50": dict(model_type="open_clip", model_cfg=RN50),
    "GPT-2": dict(model_type="gpt2"),
    "GPT-2, crossed": dict(model_type="gpt2", add_cross_attention=True),
    "PaliGemma": dict(model_type="paligemma", vision_config=SO400M, text_config=GEMMA)
    | dict(projection_dim=2048, hidden_size=2048),
    "Qwen2-VL": dict(
        model_type="qwen2_vl",
        vision_config=dict(embed_dim=1280, depth=32, num_heads=16, hidden_size=1536),
        hidden_size=1536,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        intermediate_size=8960,
        vocab_size=151_936,
        tie_word_embeddings=True,
        rope_scaling=dict(type="mrope", mrope_section=[16, 24, 24]),
    ),
    "SigLIP B/16": dict(model_type="siglip"),
}
PARTS = (
    ("BERT", r"text/(embedding|type_embedding|embeddings_norm)/", 23_837_184),
    ("BERT", "text/transformer/", 85_054_464),
    ("BERT", "text/pooler_dense/", 590_592),
    ("BLIP-2", "vision/", 985_952_256),
    ("BLIP-2", "connector/queries$", 24_576),
    ("BLIP-2", "connector/(?!queries$)", 105_137_664),
    ("BLIP-2", "decoder/memory/", 1_968_640),
    ("BLIP", "vision/", 86_090_496),
    ("BLIP", "decoder/", 137_881_148),
    ("CLIP B/32", "vision/", 87_456_000),
    ("CLIP B/32", "text/", 63_165_952),
    ("CLIP L/14", "vision/", 303_179_776),
    ("CLIP L/14", "text/", 123_060_480),
    ("CLIP L/14@336", "vision/", 303_507_456),
    ("CLIP RN50", "vision/", 38_316_896),
    ("PaliGemma", "vision/", 412_442_352),
    ("PaliGemma", "(connector|decoder/memory)/", 2_361_344),
    ("PaliGemma", "decoder/(?!memory)", 2_508_662_784),
    ("Qwen2-VL", "(vision|connector)/", 665_271_296),
    ("SigLIP B/16", "vision/attention_pooling/", 7_087_104),
    ("SigLIP B/16", "vision/", 92_884_224),
    ("SigLIP B/16", "text/", 110_271_744),
)
"""Network, a regular expression of our paths, and the size of what it selects."""


@lru_cache
def sizes(name):
    """Path to number of elements, nothing of which is computed."""
    family = family_of(FOLDERS[name])
    return {
        path: leaf.size
        for path, leaf in trees.flatten(shapes_of(family, FOLDERS[name])[1]["params"]).items()
    }


@pytest.mark.parametrize(("name", "part", "count"), PARTS)
def test_parts_have_the_published_sizes(name, part, count):
    assert sum(size for path, size in sizes(name).items() if re.match(part, path)) == count


def test_cross_attention_adds_to_gpt2_what_it_adds_to_the_published_one():
    added = sum(sizes("GPT-2, crossed").values()) - sum(sizes("GPT-2").values())
    assert added == 28_366_848
