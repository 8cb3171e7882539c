"""Folders of a vision tower beside a BERT."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import (
    BertConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    ResNetConfig,
    ResNetModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

from tests.weights import parity
from vlm_jax.weights import pretrained
from vlm_jax.weights.families import dual
from vlm_jax.weights.folder import WeightsError

SMALL = dict(num_hidden_layers=2, intermediate_size=20, image_size=24)
TEXTS = {
    "usual": dict(hidden_size=16, num_attention_heads=4, intermediate_size=24),
    "ReLU, three segments": dict(hidden_size=12, num_attention_heads=1, intermediate_size=18)
    | dict(hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-3),
}
VISIONS = {
    "vit": ViTConfig(**SMALL, hidden_size=12, num_attention_heads=3, patch_size=8),
    "clip": CLIPVisionConfig(**SMALL, hidden_size=16, num_attention_heads=2, patch_size=12),
    "siglip": SiglipVisionConfig(**SMALL, hidden_size=8, num_attention_heads=4, patch_size=8),
}


def config_of(vision, text, size=10):
    words = BertConfig(
        **TEXTS[text], vocab_size=40, max_position_embeddings=12, num_hidden_layers=2
    )
    return VisionTextDualEncoderConfig.from_vision_text_configs(
        VISIONS[vision], words, projection_dim=size
    )


@pytest.mark.parametrize(
    ("vision", "text"),
    [("vit", "usual"), ("clip", "ReLU, three segments"), ("siglip", "usual")],
)
def test_dual_encoder(vision, text, tmp_path):
    model = parity.randomise(VisionTextDualEncoderModel(config_of(vision, text)))
    mask = np.ones((3, 7), np.int64)
    mask[1, 4:] = 0
    types = np.zeros((3, 7), np.int64)
    types[:, 3:] = 1
    inputs = dict(input_ids=parity.tokens(3, 7, 40), attention_mask=mask, token_type_ids=types)
    inputs["pixel_values"] = parity.pixels(3, 3, 24, 24)
    names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
    parity.check(model, inputs, tmp_path, names=names)


class Flat(ResNetModel):
    """A ResNet whose summary is a vector, so that a projection can follow it."""

    def forward(self, pixel_values, **options):
        found = super().forward(pixel_values, **options)
        found.pooler_output = found.pooler_output.flatten(1)
        return found


class OfOurs(VisionTextDualEncoderModel):
    """Towers that the reference has, and does not put together."""

    def __init__(self, config):
        vision, text = config.vision_config, config.text_config
        towers = {}
        if vision.model_type == "resnet":
            vision.hidden_size = vision.hidden_sizes[-1]
            towers["vision_model"] = Flat(vision)
        if text.model_type == "siglip_text_model":
            towers["text_model"] = SiglipTextModel(text)
        super().__init__(config, **towers)


COMPOSED = {
    "ViT and CLIP": (
        VISIONS["vit"],
        CLIPTextConfig(
            **{**SMALL, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 40},
            max_position_embeddings=9,
            eos_token_id=39,
            bos_token_id=1,
        ),
    ),
    "ResNet and BERT": (
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"),
        BertConfig(
            **TEXTS["usual"], vocab_size=40, max_position_embeddings=12, num_hidden_layers=1
        ),
    ),
    "ResNet and SigLIP": (
        ResNetConfig(embedding_size=4, hidden_sizes=[8, 12], depths=[1, 1]),
        SiglipTextConfig(
            **{**SMALL, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 40},
            max_position_embeddings=7,
            projection_size=16,
        ),
    ),
}


@pytest.mark.parametrize("case", COMPOSED)
def test_any_two_towers(case, tmp_path):
    config = VisionTextDualEncoderConfig.from_vision_text_configs(*COMPOSED[case], projection_dim=6)
    model = parity.randomise(OfOurs(config))
    ids = parity.tokens(3, 7, 38)
    ids[:, 5] = 39
    inputs = dict(input_ids=ids, pixel_values=parity.pixels(3, 3, 24, 24))
    names = ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")
    parity.check(model, inputs, tmp_path, names=names)


def test_a_resnet_beside_bert_has_the_sizes_of_the_papers():
    config = dict(model_type="vision-text-dual-encoder", vision_config=dict(model_type="resnet"))
    size = 512 * (2048 + 768) + 1
    assert pretrained.count(config) == 23_508_032 + 109_482_240 + size
    assert dual.tasks(config) == {"retrieval": {"length": 64}}


def test_published_names(tmp_path):
    config_of("vit", "usual").save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in parity.published(parity.describe(tmp_path)).items()
    }
    assert "vision_model.encoder.layer.1.attention.output.dense.bias" in tensors
    save_file(tensors, tmp_path / "model.safetensors", metadata=dict(format="pt"))
    options = dict(output_loading_info=True)
    _, info = VisionTextDualEncoderModel.from_pretrained(tmp_path, **options)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    pretrained.read_folder(tmp_path)


def test_count():
    vision, text = 85_798_656 + 590_592, 109_482_240
    config = dict(model_type="vision-text-dual-encoder", projection_dim=768)
    assert pretrained.count(config) == vision + text + 2 * 768 * 768 + 1


def test_values_that_are_not_supported():
    for side in ("vision", "text"):
        with pytest.raises(WeightsError, match="model_type='deit'"):
            dual.model({f"{side}_config": dict(model_type="deit")})
    with pytest.raises(WeightsError, match="model_type='gpt2' .*known: bert, clip_text_model"):
        dual.model({"text_config": dict(model_type="gpt2")})
