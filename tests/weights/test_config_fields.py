"""Every field of the reference's configuration classes is read, refused by its name, or of no
consequence for what a network computes.

Each field is given another value than the class's own: config.model, the mapping table or the tasks
must then change, or an error must be raised.
"""

from typing import Any

import pytest
import transformers

from vlm_jax.weights.families import FAMILIES
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import family_of

TRAINING = (
    "dropout", "initializer", "token_id", "use_cache", "return_dict", "output_", "logit_scale_init",
    "label_smoothing", "pdrop", "id2label", "label2id", "problem_type", "dtype", "chunk_size",
    "is_encoder_decoder", "architectures", "transformers_", "layerdrop", "_name_or_path",
    "summary_", "init_std", "freeze_",
)  # fmt: skip
"""Parts of names of fields for training, for what is returned, or for how texts are generated."""

ELSEWHERE = {
    "BertConfig": {"position_embedding_type"},
    "VisualBertConfig": {"special_visual_initialize"},  # how training starts
    "ViltConfig": {"tie_word_embeddings", "num_images"},  # always true; of another class
    "LxmertConfig": {"visual_loss_normalizer", "task_matched", "task_mask_lm"},  # of the loss
    "GPT2Config": {"reorder_and_upcast_attn"},  # the same in float32
    "Gemma3TextConfig": {"attn_logit_softcapping", "_sliding_window_pattern"},  # nothing reads them
    "Qwen2Config": {"use_sliding_window", "sliding_window", "max_window_layers"},
    "T5Config": {"feed_forward_proj", "is_decoder"},  # said again by is_gated_act, dense_act_fn
    "ViTConfig": {"encoder_stride"},  # of another class
    "ResNetConfig": {"stage_names", "out_features", "out_indices"},  # of another class
    "CLIPConfig": {"projection_dim"},  # of towers by themselves
    "BlipConfig": {"projection_dim", "image_text_hidden_size", "encoder_hidden_size"},
    "Blip2Config": {"image_text_hidden_size", "use_decoder_only_language_model"}
    | {"vocab_size", "max_position_embeddings", "encoder_hidden_size"},  # retrieval's; tensors tell
    "LlavaConfig": {"image_seq_length", "projection_dim", "vocab_size", "tie_word_embeddings"},
    "PaliGemmaConfig": {"vocab_size", "hidden_size", "tie_word_embeddings", "projection_dim"}
    | {"use_bidirectional_attention", "num_image_tokens"},
    "Gemma3Config": {"attn_logit_softcapping", "final_logit_softcapping", "boi_token_index"}
    | {"_sliding_window_pattern", "vocab_size", "projection_dim", "eoi_token_index"}
    | {"tie_word_embeddings"},
    "IdeficsConfig": {"use_resampler"},  # said again beside perceiver_config
    "Idefics3Config": {"tie_word_embeddings"},  # said again beside text_config
    "Qwen2VLConfig": {"use_sliding_window", "sliding_window", "max_window_layers"},
}
"""Fields that change nothing in the class listed, besides model_type within sections."""

TOWERS = ("text_config", "vision_config")
CASES: dict[str, tuple[str, ...]] = {
    "BertConfig": ("BertForPreTraining",),
    "VisualBertConfig": ("VisualBertForPreTraining",),
    "ViltConfig": ("ViltForMaskedLM",),
    "LxmertConfig": ("LxmertForPreTraining",),
    "GPT2Config": ("GPT2LMHeadModel",),
    "OPTConfig": ("OPTForCausalLM",),
    "LlamaConfig": ("LlamaForCausalLM",),
    "GemmaConfig": ("GemmaForCausalLM",),
    "Gemma2Config": ("Gemma2ForCausalLM",),
    "Gemma3TextConfig": ("Gemma3ForCausalLM",),
    "Qwen2Config": ("Qwen2ForCausalLM",),
    "T5Config": ("T5ForConditionalGeneration",),
    "ViTConfig": ("ViTForImageClassification",),
    "ResNetConfig": ("ResNetForImageClassification",),
    "CLIPConfig": ("CLIPModel", *TOWERS),
    "SiglipConfig": ("SiglipModel", *TOWERS),
    "Siglip2Config": ("Siglip2Model", *TOWERS),
    "BlipConfig": ("BlipForConditionalGeneration", *TOWERS),
    "Blip2Config": ("Blip2ForConditionalGeneration", *TOWERS, "qformer_config"),
    "GitConfig": ("GitForCausalLM", "vision_config"),
    "LlavaConfig": ("LlavaForConditionalGeneration", *TOWERS),
    "PaliGemmaConfig": ("PaliGemmaForConditionalGeneration", *TOWERS),
    "Gemma3Config": ("Gemma3ForConditionalGeneration", *TOWERS),
    "IdeficsConfig": ("IdeficsForVisionText2Text", "vision_config", "perceiver_config"),
    "Idefics3Config": ("Idefics3ForConditionalGeneration", *TOWERS),
    "Qwen2VLConfig": ("Qwen2VLForConditionalGeneration", *TOWERS),
}
"""Of each configuration class a class of models, and the sections of its config.json."""

FITTING = {
    "Gemma3Config": dict(mm_tokens_per_image=4),
    "IdeficsConfig": dict(use_resampler=True),
    "Idefics3Config": dict(scale_factor=1),
}
"""Where a class's own values do not go together, or leave a section unused."""


def others(value: Any) -> list[Any]:
    """Values that are not the usual one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [2 * value or 3]
    if isinstance(value, str):
        return ["relu" if value != "relu" else "tanh", f"another {value}"]
    if isinstance(value, (list, tuple)):
        return [[*value, *value], ["another"] * max(len(value), 1)]
    if isinstance(value, dict):
        kinds = {k: v | dict(rope_type="another") for k, v in value.items() if isinstance(v, dict)}
        return [value | (kinds or dict(rope_type="another"))]
    return [3, True, [1, 2], "another"]


def described(config: dict[str, Any]) -> str:
    """All that a config.json makes of a network here."""
    family = FAMILIES[config["model_type"]]
    rules = [(rule.ours, rule.theirs, rule.layers, rule.sizes) for rule in family.rules(config)]
    batch, asks = family.example(config)
    shapes = {name: getattr(array, "shape", None) for name, array in batch.items()}
    return repr((family.model(config), rules, family.tasks(config), shapes, asks))


def unread(config: dict[str, Any], section: str | None) -> set[str]:
    """The fields of a section, None for the whole, that nothing depends on."""
    usual, fields = described(config), config if section is None else config[section]

    def matters(name: str, value: Any) -> bool:
        changed = fields | {name: value}
        try:
            return described(changed if section is None else config | {section: changed}) != usual
        except (WeightsError, ValueError, TypeError):
            return True

    asked = {
        name: value
        for name, value in fields.items()
        if name != "model_type" and not any(part in name for part in TRAINING)
        if not isinstance(value, dict) or name.startswith("rope")
    }
    return {
        name
        for name, value in asked.items()
        if not any(matters(name, other) for other in others(value))
    }


@pytest.mark.parametrize("name", CASES)
def test_no_field_is_passed_over(name):
    architecture, *sections = CASES[name]
    config = getattr(transformers, name)().to_dict() | dict(architectures=[architecture])
    config |= FITTING.get(name, {})
    found = set().union(*(unread(config, section) for section in (None, *sections)))
    assert found <= ELSEWHERE.get(name, set()), found - ELSEWHERE.get(name, set())


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("visual_bert", dict(bypass_transformer=True), "bypass_transformer=True"),
        ("visual_bert", dict(hidden_act="xielu"), "hidden_act='xielu'"),
        ("visual_bert", dict(architectures=["VisualBertForTokenClassification"]), "TokenClass"),
        ("vilt", dict(max_image_length=200), "max_image_length=200"),
        ("vilt", dict(num_channels=1), "num_channels=1"),
        ("vilt", dict(image_size=[384, 640]), r"image_size=\[384, 640\]"),
        ("vilt", dict(architectures=["ViltForTokenClassification"]), "TokenClass"),
        ("lxmert", dict(hidden_act="xielu"), "hidden_act='xielu'"),
        ("lxmert", dict(tie_word_embeddings=False), "tie_word_embeddings=False"),
        ("clip", dict(vision_config=dict(num_channels=4)), "num_channels=4"),
        ("clip", dict(vision_config=dict(patch_size=[16, 32])), r"patch_size=\[16, 32\]"),
        ("clip", dict(text_config=dict(eos_token_id=[1, 2])), r"eos_token_id=\[1, 2\]"),
        ("clip", dict(architectures=["CLIPForImageClassification"]), "CLIPForImageClass"),
        ("siglip", dict(architectures=["SiglipForImageClassification"]), "SiglipForImageClass"),
        ("siglip2", dict(architectures=["Siglip2ForImageClassification"]), "Siglip2ForImageClass"),
        ("blip-2", dict(architectures=["Blip2TextModelWithProjection"]), "Blip2TextModel"),
        ("siglip", dict(text_config=dict(projection_size=5)), "projection_size=5"),
        ("blip", dict(vision_config=dict(hidden_act="xielu")), "hidden_act='xielu'"),
        ("bert", dict(is_decoder=True), "is_decoder=True"),
        ("t5", dict(feed_forward_proj="other-gelu"), "feed_forward_proj='other-gelu'"),
        ("llava", dict(vision_feature_layer=[-2, -5]), r"vision_feature_layer=\[-2, -5\]"),
        ("llava", dict(text_config=dict(model_type="mistral")), "model_type='mistral'"),
        ("qwen2_vl", dict(vision_config=dict(in_channels=1)), "in_channels=1"),
    ],
)
def test_what_is_not_supported_is_named(kind, fields, message):
    with pytest.raises(WeightsError, match=message):
        described(dict(model_type=kind) | fields)


def test_quantised_folders_are_refused():
    config = dict(model_type="llama", quantization_config=dict(quant_method="gptq"))
    with pytest.raises(WeightsError, match="quant_method='gptq'"):
        family_of(config)


def test_sections_of_clips_first_releases_win():
    """As the reference reads them."""
    told = dict(hidden_size=24, num_attention_heads=2, projection_dim=10)
    config = transformers.CLIPConfig(
        text_config_dict=told, vision_config_dict=told | {"patch_size": 16}
    )
    theirs = config.to_dict()
    ours = dict(model_type="clip", text_config=dict(hidden_size=7, num_hidden_layers=3))
    ours |= dict(text_config_dict=told, vision_config_dict=told | {"patch_size": 16})
    assert described(ours) == described(theirs)
