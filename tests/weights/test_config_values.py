"""Values of config.json, one at a time: a folder with such a value gives the reference's numbers,
or an error that names the key.

`test_config_fields.py` asks whether a field is read at all; here it is whether it is read rightly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.weights import parity
from tests.weights.families import test_blip2, test_idefics, test_lxmert, test_vilt
from tests.weights.families import test_qwen2_vl as qwen2_vl
from tests.weights.families import test_visual_bert as visual_bert
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import Pretrained

Fields = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """kind, config: the reference's classes. base: fields of a tiny network. inputs: model -> its
    arguments. values: fields that replace others, each by itself, those of a section with its name
    before: "text_config.head_dim".
    """

    kind: str
    config: str
    base: Fields
    inputs: Callable[[Any], dict[str, np.ndarray]]
    values: tuple[Fields, ...]


TEXT = dict(hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=2)
TOWER = TEXT | dict(image_size=16, patch_size=8)
WORDS = TEXT | dict(vocab_size=60, bos_token_id=2, eos_token_id=3, pad_token_id=1)
GROUPED = WORDS | dict(num_key_value_heads=2, max_position_embeddings=32)
IDS = parity.tokens(2, 7, 50)
IMAGE = 59
"""The token that stands for pictures."""

LINEAR = dict(rope_type="linear", rope_theta=100.0, factor=2.0)
HALF = dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5)
YARN = dict(rope_type="yarn", rope_theta=100.0, factor=2.0, original_max_position_embeddings=8)
ALL_LOCAL = dict(layer_types=["sliding_attention"] * 3)


def words(model: Any) -> dict[str, np.ndarray]:
    return dict(input_ids=IDS, attention_mask=np.ones_like(IDS))


def pictures(model: Any) -> dict[str, np.ndarray]:
    return dict(pixel_values=parity.pixels(2, 3, 16, 16))


def captions(model: Any) -> dict[str, np.ndarray]:
    return pictures(model) | words(model)


def shown(count: int) -> dict[str, np.ndarray]:
    """Texts that begin with `count` image tokens."""
    ids = np.concatenate([np.full((2, count), IMAGE), IDS], axis=1)
    return dict(input_ids=ids, attention_mask=np.ones_like(ids))


def llava(model: Any) -> dict[str, np.ndarray]:
    full = model.config.vision_feature_select_strategy == "full"
    return pictures(model) | shown(4 + full)


def paligemma(model: Any) -> dict[str, np.ndarray]:
    """Texts of which the last three words are no prompt."""
    given = pictures(model) | shown(4)
    types = np.zeros_like(given["input_ids"])
    types[:, -3:] = 1
    return given | dict(token_type_ids=types)


def gemma3(model: Any) -> dict[str, np.ndarray]:
    given = pictures(model) | shown(model.config.mm_tokens_per_image)
    return given | dict(token_type_ids=(given["input_ids"] == IMAGE).astype(np.int64))


def idefics3(model: Any) -> dict[str, np.ndarray]:
    return dict(pixel_values=parity.pixels(2, 1, 3, 16, 16)) | shown(1)


def idefics(model: Any) -> dict[str, np.ndarray]:
    seen = np.ones((2, 7, 2), np.int64)
    pixels = parity.pixels(2, 2, 3, 16, 16)
    return dict(pixel_values=pixels, image_attention_mask=seen) | words(model)


def blip2(model: Any) -> dict[str, np.ndarray]:
    ids = np.concatenate([np.full((2, 4), 49), np.minimum(IDS, 48)], axis=1)
    return pictures(model) | dict(input_ids=ids, attention_mask=np.ones_like(ids))


def qwen2_vl_inputs(model: Any) -> dict[str, np.ndarray]:
    given = qwen2_vl.texts(model)
    return given | dict(attention_mask=np.ones_like(given["attention_mask"]))


def read_and_written(model: Any) -> dict[str, np.ndarray]:
    return words(model) | dict(decoder_input_ids=parity.tokens(2, 5, 50, seed=1))


GEMMA2 = GROUPED | dict(head_dim=6, sliding_window=4, num_hidden_layers=3)
GEMMA3 = GEMMA2 | dict(model_type="gemma3_text", query_pre_attn_scalar=6)
SIGLIP = TOWER | dict(model_type="siglip_vision_model", vision_use_head=False)
QWEN_TEXT, QWEN_VISION, _ = qwen2_vl.CASES["usual"]
SWEEPS = {
    "llama": Sweep(
        "LlamaForCausalLM",
        "LlamaConfig",
        GROUPED,
        words,
        (
            *tuple(dict(rope_parameters=rope) for rope in (LINEAR, HALF, YARN)),
            dict(hidden_act="mish"),
        ),
    ),
    "gpt2": Sweep(
        "GPT2LMHeadModel",
        "GPT2Config",
        dict(vocab_size=60, n_embd=16, n_layer=3, n_head=2, n_positions=16),
        words,
        (
            dict(scale_attn_weights=False),
            dict(scale_attn_by_inverse_layer_idx=True),
            dict(activation_function="quick_gelu"),
        ),
    ),
    "opt": Sweep(
        "OPTForCausalLM",
        "OPTConfig",
        WORDS | dict(ffn_dim=20, max_position_embeddings=16),
        words,
        (
            dict(word_embed_proj_dim=8),
            dict(_remove_final_layer_norm=True),
            dict(activation_function="silu"),
        ),
    ),
    "gemma": Sweep(
        "GemmaForCausalLM",
        "GemmaConfig",
        GROUPED | dict(head_dim=6),
        words,
        (
            dict(hidden_act="relu"),
            dict(hidden_activation="relu", hidden_act="silu"),
            dict(use_bidirectional_attention=True),
            dict(rope_parameters=HALF),
        ),
    ),
    "gemma2": Sweep(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        GEMMA2,
        words,
        (
            ALL_LOCAL,
            dict(sliding_window=1),
            dict(use_bidirectional_attention=True),
            dict(hidden_activation="quick_gelu"),
            dict(rope_parameters=LINEAR),
        ),
    ),
    "qwen2": Sweep(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        GROUPED,
        words,
        (
            dict(use_sliding_window=True, sliding_window=4, max_window_layers=0),
            dict(sliding_window=3),
            dict(rope_parameters=YARN),
        ),
    ),
    "t5": Sweep(
        "T5ForConditionalGeneration",
        "T5Config",
        dict(vocab_size=60, d_model=12, d_kv=8, d_ff=20, num_layers=2, num_heads=3)
        | dict(decoder_start_token_id=0),
        read_and_written,
        (
            *tuple(dict(feed_forward_proj=name) for name in ("silu", "gated-gelu_new")),
            dict(num_decoder_layers=1),
            dict(relative_attention_max_distance=9),
        ),
    ),
    "visual_bert": Sweep(
        "VisualBertForQuestionAnswering",
        "VisualBertConfig",
        visual_bert.CONFIGS["wide heads"],
        lambda model: visual_bert.inputs("wide heads"),
        (dict(hidden_act="quick_gelu"), dict(bypass_transformer=True), dict(pad_token_id=5)),
    ),
    "vilt": Sweep(
        "ViltForQuestionAnswering",
        "ViltConfig",
        test_vilt.CONFIGS["square"],
        lambda model: test_vilt.inputs("square"),
        (dict(hidden_act="relu"), dict(max_image_length=4), dict(num_labels=9)),
    ),
    "lxmert": Sweep(
        "LxmertForQuestionAnswering",
        "LxmertConfig",
        test_lxmert.CONFIGS["odd depths"],
        lambda model: test_lxmert.inputs("odd depths"),
        (dict(hidden_act="quick_gelu"), dict(visual_feat_loss=False), dict(task_qa=False)),
    ),
    "git": Sweep(
        "GitForCausalLM",
        "GitConfig",
        WORDS | dict(vision_config=TOWER, max_position_embeddings=20),
        captions,
        (
            {"vision_config.hidden_act": "tanh"},
            {"vision_config.layer_norm_eps": 0.1},
            {"vision_config.num_channels": 1},
        ),
    ),
    "llava": Sweep(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        dict(
            text_config=GROUPED | dict(model_type="llama"),
            vision_config=TOWER | dict(model_type="clip_vision_model", num_hidden_layers=3),
            image_token_index=IMAGE,
        ),
        llava,
        (
            *tuple(dict(vision_feature_layer=layer) for layer in (-4, 1, 3, [-1, -2])),
            dict(vision_feature_select_strategy="full"),
            dict(projector_hidden_act="relu6"),
            {"text_config.rope_parameters": LINEAR},
            {"text_config.model_type": "mistral"},
        ),
    ),
    "paligemma": Sweep(
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        dict(
            text_config=GROUPED | dict(model_type="gemma", head_dim=6),
            vision_config=SIGLIP,
            image_token_index=IMAGE,
            projection_dim=16,
        ),
        paligemma,
        (
            {"text_config.hidden_activation": "relu"},
            {"text_config.hidden_act": "relu"},
            {"text_config.use_bidirectional_attention": True},
            {"vision_config.vision_use_head": True},
        ),
    ),
    "gemma3": Sweep(
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        dict(
            text_config=GEMMA3, vision_config=SIGLIP, image_token_index=IMAGE, mm_tokens_per_image=4
        ),
        gemma3,
        (
            {"mm_tokens_per_image": 1},
            {"text_config.attn_logit_softcapping": 1.0},
            {"text_config.use_bidirectional_attention": True},
            {"text_config.sliding_window": 2},
        ),
    ),
    "idefics": Sweep(
        "IdeficsForVisionText2Text",
        "IdeficsConfig",
        test_idefics.SMALL | test_idefics.CASES["resampler, every second layer"],
        idefics,
        (
            dict(use_resampler=False),
            dict(cross_layer_activation_function="relu"),
            dict(num_hidden_layers=5),
            {"perceiver_config.qk_layer_norms_perceiver": False},
            {"vision_config.hidden_act": "relu"},
        ),
    ),
    "idefics3": Sweep(
        "Idefics3ForConditionalGeneration",
        "Idefics3Config",
        dict(
            text_config=GROUPED | dict(model_type="llama"),
            vision_config=TOWER | dict(model_type="idefics3_vision"),
            image_token_id=IMAGE,
            scale_factor=2,
        ),
        idefics3,
        (
            {"text_config.model_type": "qwen2"},
            {"text_config.model_type": "mistral"},
            {"text_config.rope_parameters": HALF},
            {"vision_config.hidden_act": "tanh"},
        ),
    ),
    "qwen2_vl": Sweep(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        dict(text_config=qwen2_vl.SMALL | QWEN_TEXT, vision_config=QWEN_VISION) | qwen2_vl.TOKENS,
        qwen2_vl_inputs,
        (
            {"vision_config.mlp_ratio": 3},
            {"vision_config.hidden_act": "relu"},
            {"text_config.hidden_act": "gelu"},
        ),
    ),
    "blip-2": Sweep(
        "Blip2ForConditionalGeneration",
        "Blip2Config",
        dict(
            vision_config=test_blip2.VISIONS["usual"],
            qformer_config=test_blip2.QFORMERS["usual"],
            text_config=test_blip2.OPT,
            num_query_tokens=4,
            image_token_index=49,
        ),
        blip2,
        (
            {"vision_config.hidden_act": "relu"},
            {"qformer_config.cross_attention_frequency": 1},
            {"qformer_config.hidden_act": "mish"},
        ),
    ),
}


def with_values(base: Mapping[str, Any], values: Fields) -> Fields:
    """The fields, some of them, perhaps of a section, replaced."""
    found = dict(base)
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        found |= {section: found[section] | {key: value}} if section else {key: value}
    return found


def theirs(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The reference's logits, of words alone; ViLT's shuffles patches, the same way every time."""
    torch.manual_seed(0)
    with torch.no_grad():
        found = model(**parity.tensors_of(inputs))
    name = "question_answering_score" if model.config.model_type == "lxmert" else "logits"
    logits = found[name].numpy()
    return logits[:, -IDS.shape[1] :] if model.config.model_type == "git" else logits


def read_or_error(folder: Path) -> Pretrained | WeightsError:
    try:
        return parity.read_folder(folder)
    except WeightsError as error:
        return error


def named(values: Fields, error: WeightsError) -> bool:
    """Whether an error speaks of one of the keys, or of one within its value, as for ropes."""
    keys = [key.rpartition(".")[2] for key in values]
    keys += [key for value in values.values() if isinstance(value, dict) for key in value]
    return any(key in str(error) for key in keys)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_value_is_read_rightly_or_named(name, tmp_path):
    sweep, agreed = SWEEPS[name], 0
    for number, values in enumerate(sweep.values):
        config = getattr(transformers, sweep.config)(**with_values(sweep.base, values))
        model, folder = getattr(transformers, sweep.kind)(config), tmp_path / str(number)
        parity.randomise(model).save_pretrained(folder)
        loaded = read_or_error(folder)
        if isinstance(loaded, WeightsError):
            assert named(values, loaded), (values, loaded)
            continue
        inputs = sweep.inputs(model)
        found = parity.run(loaded, "forward", inputs)["logits"]
        parity.compare({str(values): found}, {str(values): theirs(model, inputs)}, 1e-5)
        agreed += 1
    assert agreed >= 2
