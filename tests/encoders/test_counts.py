"""Exact parameter counts of published networks; they catch a wrong bias, norm, table or layer."""

import jax
import jax.numpy as jnp
import pytest

from vlm_jax.encoders.resnet import ResNet
from vlm_jax.encoders.text_recurrent import RecurrentEncoder
from vlm_jax.encoders.text_transformer import TransformerEncoder
from vlm_jax.encoders.vgg import VGG
from vlm_jax.encoders.vit import ViT

LARGE = {"width": 1024, "layers": 24, "heads": 16, "mlp_width": 4096}
CLIP_VISION = {"patch_bias": False, "pre_norm": True, "activation": "quick_gelu", "epsilon": 1e-5}
SIGLIP_VISION = {"class_token": False, "pooling": "attention", "activation": "gelu_tanh"}
BERT = {
    "norm_first": False,
    "embedding_norm": True,
    "token_types": 2,
    "pooler": "tanh",
    "epsilon": 1e-12,
}
CLIP_TEXT = {"width": 512, "heads": 8, "mlp_width": 2048, "max_length": 77, "causal": True}
SIGLIP_TEXT = {"max_length": 64, "attend_padding": True, "pooling": "last", "pooler": "linear"}

VISION = [
    (VGG(16, features="fc2", classes=1000), 138_357_544),
    (VGG(19, features="fc2", classes=1000), 143_667_240),
    (VGG(16, features="fc2"), 138_357_544 - 4_097_000),
    (VGG(16), 14_714_688),
    (ResNet(18, classes=1000), 11_689_512),
    (ResNet(34, classes=1000), 21_797_672),
    (ResNet(50, classes=1000), 25_557_032),
    (ResNet(50), 23_508_032),
    (ResNet(50, norm="group"), 23_508_032),
    (ResNet(101, classes=1000), 44_549_160),
    (ResNet(152, classes=1000), 60_192_808),
    (ViT(), 85_798_656),
    (ViT(classes=1000), 86_567_656),
    (ViT(classes=1000, image_size=384), 86_859_496),
    (ViT(classes=1000, **LARGE), 304_326_632),
    (ViT(patch=14, **LARGE), 303_178_752),
    (ViT(patch=32, **CLIP_VISION), 87_456_000),
    (ViT(patch=16, **CLIP_VISION), 85_799_424),
    (ViT(patch=14, **CLIP_VISION, **LARGE), 303_179_776),
    (ViT(**SIGLIP_VISION), 92_884_224),
    (
        ViT(patch=14, width=1152, layers=27, heads=16, mlp_width=4304, image_size=384).clone(
            **SIGLIP_VISION
        ),
        428_225_600,
    ),
]
TEXT = [
    (TransformerEncoder(30_522, **BERT), 109_482_240),
    (TransformerEncoder(49_408, pooling="eos", eos_id=49_407, **CLIP_TEXT), 63_165_952),
    (TransformerEncoder(32_000, **SIGLIP_TEXT), 110_271_744),
    (RecurrentEncoder(1, width=512, hidden=256, cell="lstm"), 787_456 + 512),
    (RecurrentEncoder(1, width=512, hidden=256, cell="gru"), 590_848 + 512),
]


def count(encoder, *inputs):
    variables = jax.eval_shape(encoder.init, jax.random.key(0), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(("encoder", "expected"), VISION)
def test_vision_encoder_has_the_published_count(encoder, expected):
    size = getattr(encoder, "image_size", 224)
    assert count(encoder, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)) == expected


@pytest.mark.parametrize(("encoder", "expected"), TEXT)
def test_text_encoder_has_the_published_count(encoder, expected):
    tokens = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    assert count(encoder, tokens, jax.ShapeDtypeStruct((1, 16), jnp.bool_)) == expected


def test_batch_statistics_are_counted_apart_from_parameters():
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(ResNet(50).init, jax.random.key(0), image)
    assert set(variables) == {"params", "batch_stats"}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"])) == 53_120
