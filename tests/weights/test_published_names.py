"""Tensors under every name that folders of a class have had: none is missing, none is left over,
and each comes to the same place.

Names are those of a network in memory, those that the reference writes for one that was built
anew, and the published ones, older than both, with the buffers and copies that old files hold. The
reference reads the published ones, too, which proves that they are such names.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from tests.weights import oracles, parity
from tests.weights.families import (
    test_align,
    test_blip,
    test_blip2,
    test_gemma3,
    test_idefics,
    test_idefics3,
    test_lxmert,
    test_paligemma,
    test_qwen2_vl,
    test_t5,
    test_vilt,
    test_visual_bert,
)
from vlm_jax.weights import convert, pretrained
from vlm_jax.weights.folder import Arrays

Renames = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    """make: a model. published: from its names in memory to older ones, by regular expressions, one
    tuple for each generation of names. more: what old files hold besides, names to names of tensors
    that they are copies of, or to arrays. theirs: whether the reference still reads all of that.
    """

    make: Callable[[], Any]
    published: tuple[Renames, ...] = ((),)
    more: Mapping[str, Any] = field(default_factory=dict)
    theirs: bool = True


def of(kind: str, config: str, **fields: Any) -> Callable[[], Any]:
    """A model of a class of the reference and a configuration, by their names."""
    build = lambda: getattr(transformers, kind)(getattr(transformers, config)(**fields))
    return lambda: parity.randomise(build())


TEXT = dict(hidden_size=16, num_attention_heads=4, intermediate_size=24, num_hidden_layers=2)
TOWER = TEXT | dict(image_size=16, patch_size=8)
WORDS = TEXT | dict(vocab_size=20, bos_token_id=2, eos_token_id=3, pad_token_id=1)
GROUPED = WORDS | dict(num_key_value_heads=2, max_position_embeddings=16)
POSITIONS = np.arange(16)[None]
MASK = np.tril(np.ones((1, 1, 16, 16), np.float32))
ANGLES = np.ones(2, np.float32)

LETTERS = ((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta"))
"""Of BERT's first files."""

VIT = (
    (r"\blayers\.(\d+)\.attention\.q_proj", r"encoder.layer.\1.attention.attention.query"),
    (r"\blayers\.(\d+)\.attention\.k_proj", r"encoder.layer.\1.attention.attention.key"),
    (r"\blayers\.(\d+)\.attention\.v_proj", r"encoder.layer.\1.attention.attention.value"),
    (r"\blayers\.(\d+)\.attention\.o_proj", r"encoder.layer.\1.attention.output.dense"),
    (r"\blayers\.(\d+)\.mlp\.fc1", r"encoder.layer.\1.intermediate.dense"),
    (r"\blayers\.(\d+)\.mlp\.fc2", r"encoder.layer.\1.output.dense"),
    (r"(?<!encoder\.)\blayers\.(\d+)\.", r"encoder.layer.\1."),
)
TOWERS = (
    (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
BETWEEN = ((r"^model\.vision_tower\.(vision_model\.)?", "model.vision_tower.vision_model."),)
"""Of a picture's tower and a language model: as first published, and as written after that."""

HEAD, DECODER = "cls.predictions.decoder", "text_decoder.cls.predictions.decoder"
COPIES = {f"{HEAD}.weight": "bert.embeddings.word_embeddings.weight"}
COPIES |= {f"{HEAD}.bias": "cls.predictions.bias"}
SPOKEN = "text_decoder.bert.embeddings"
ROTARY = {"model.layers.0.self_attn.rotary_emb.inv_freq": ANGLES}

CASES = {
    "vit": Case(of("ViTForImageClassification", "ViTConfig", **TOWER), (VIT,)),
    "bert": Case(
        of("BertForPreTraining", "BertConfig", **WORDS),
        ((), LETTERS),
        COPIES | {"bert.embeddings.position_ids": POSITIONS},
    ),
    "gpt2": Case(
        of("GPT2LMHeadModel", "GPT2Config", vocab_size=20, n_embd=8, n_layer=2, n_head=2),
        ((), ((r"^transformer\.", ""),)),
        {"transformer.h.0.attn.bias": MASK}
        | {"transformer.h.1.attn.masked_bias": np.full((), -1e4, np.float32)},
    ),
    "opt": Case(
        of("OPTForCausalLM", "OPTConfig", **WORDS, ffn_dim=8, max_position_embeddings=9),
        ((), ((r"^model\.decoder\.", "decoder."),)),
        theirs=False,
    ),
    "llama": Case(of("LlamaForCausalLM", "LlamaConfig", **GROUPED), more=ROTARY),
    "gemma": Case(of("GemmaForCausalLM", "GemmaConfig", **GROUPED, head_dim=4)),
    "gemma2": Case(of("Gemma2ForCausalLM", "Gemma2Config", **GROUPED, head_dim=4)),
    "gemma3_text": Case(of("Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, head_dim=4)),
    "qwen2": Case(of("Qwen2ForCausalLM", "Qwen2Config", **GROUPED), more=ROTARY),
    "t5": Case(
        lambda: test_t5.network("own output layer"),
        more={f"{side}.embed_tokens.weight": "shared.weight" for side in ("encoder", "decoder")}
        | {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": MASK[0, 0]},
    ),
    "resnet": Case(
        of(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=4,
            hidden_sizes=[8, 8],
            depths=[1, 1],
        )
    ),
    "clip": Case(
        of("CLIPModel", "CLIPConfig", text_config=WORDS, vision_config=TOWER),
        more={f"{side}_model.embeddings.position_ids": POSITIONS for side in ("text", "vision")},
    ),
    "siglip": Case(
        of("SiglipModel", "SiglipConfig", text_config=WORDS, vision_config=TOWER),
        more={f"{side}_model.embeddings.position_ids": POSITIONS for side in ("text", "vision")},
    ),
    "siglip2": Case(
        of(
            "Siglip2Model",
            "Siglip2Config",
            text_config=WORDS,
            vision_config=TEXT | dict(patch_size=4, num_patches=9),
        )
    ),
    "visual_bert": Case(
        of(
            "VisualBertForPreTraining", "VisualBertConfig", **test_visual_bert.CONFIGS["wide heads"]
        ),
        ((), LETTERS),
        {f"{HEAD}.weight": "visual_bert.embeddings.word_embeddings.weight"}
        | {f"{HEAD}.bias": "cls.predictions.bias"}
        | {"visual_bert.embeddings.position_ids": POSITIONS},
    ),
    "vilt": Case(
        of("ViltForMaskedLM", "ViltConfig", **test_vilt.CONFIGS["square"]),
        ((), ((r"^mlm_score\.decoder\.bias$", "mlm_score.bias"),)),
        {"mlm_score.decoder.weight": "vilt.embeddings.text_embeddings.word_embeddings.weight"}
        | {"vilt.embeddings.text_embeddings.position_ids": POSITIONS},
        theirs=False,
    ),
    "visual_bert answers": Case(
        of(
            "VisualBertForQuestionAnswering",
            "VisualBertConfig",
            **test_visual_bert.CONFIGS["wide heads"],
        ),
        ((), LETTERS),
        {"visual_bert.embeddings.position_ids": POSITIONS},
    ),
    "vilt answers": Case(
        of("ViltForQuestionAnswering", "ViltConfig", **test_vilt.CONFIGS["square"]),
        more={"vilt.embeddings.text_embeddings.position_ids": POSITIONS},
    ),
    "vilt retrieval": Case(
        of("ViltForImageAndTextRetrieval", "ViltConfig", **test_vilt.CONFIGS["square"]),
        more={"vilt.embeddings.text_embeddings.position_ids": POSITIONS},
    ),
    "lxmert answers": Case(
        lambda: test_lxmert.build(transformers.LxmertForQuestionAnswering, "odd depths"),
        ((), LETTERS),
    ),
    "align": Case(
        lambda: test_align.made("usual"), more={"text_model.embeddings.position_ids": POSITIONS}
    ),
    "blip-2 retrieval": Case(lambda: test_blip2.retriever("usual")),
    "lxmert": Case(
        lambda: test_lxmert.build(transformers.LxmertForPreTraining, "odd depths"),
        ((), LETTERS),
        {f"{HEAD}.weight": "lxmert.embeddings.word_embeddings.weight"},
    ),
    "blip captions": Case(
        lambda: test_blip.build(transformers.BlipForConditionalGeneration, "one width"),
        more={f"{DECODER}.weight": f"{SPOKEN}.word_embeddings.weight"}
        | {f"{DECODER}.bias": "text_decoder.cls.predictions.bias"}
        | {f"{SPOKEN}.position_ids": POSITIONS},
    ),
    "blip answers": Case(
        lambda: test_blip.build(transformers.BlipForQuestionAnswering, "one width"),
        more={f"{DECODER}.weight": f"{SPOKEN}.word_embeddings.weight"}
        | {f"{DECODER}.bias": "text_decoder.cls.predictions.bias"}
        | {f"{SPOKEN}.position_ids": POSITIONS, "text_encoder.embeddings.position_ids": POSITIONS},
    ),
    "blip retrieval": Case(
        lambda: test_blip.build(transformers.BlipForImageTextRetrieval, "one width"),
        more={"text_encoder.embeddings.position_ids": POSITIONS},
    ),
    "blip-2 opt": Case(
        lambda: test_blip2.network("OPT"),
        more={"language_model.lm_head.weight": "language_model.model.decoder.embed_tokens.weight"},
    ),
    "blip-2 t5": Case(
        lambda: test_blip2.network("T5, own output layer"),
        more={
            f"language_model.{side}.embed_tokens.weight": "language_model.shared.weight"
            for side in ("encoder", "decoder")
        },
    ),
    "git": Case(
        of("GitForCausalLM", "GitConfig", **WORDS, vision_config=TOWER),
        more={"git.embeddings.position_ids": POSITIONS}
        | {"git.image_encoder.vision_model.embeddings.position_ids": POSITIONS},
    ),
    "llava": Case(
        of(
            "LlavaForConditionalGeneration",
            "LlavaConfig",
            text_config=GROUPED | dict(model_type="llama"),
            vision_config=TOWER | dict(model_type="clip_vision_model"),
        ),
        (TOWERS, BETWEEN),
        {"vision_tower.vision_model.embeddings.position_ids": POSITIONS}
        | {"language_model.model.layers.1.self_attn.rotary_emb.inv_freq": ANGLES},
    ),
    "paligemma": Case(lambda: test_paligemma.build("1"), (TOWERS, BETWEEN)),
    "paligemma 2": Case(
        lambda: test_paligemma.build("2, an image token beyond the vocabulary"), (TOWERS, BETWEEN)
    ),
    "gemma3": Case(lambda: test_gemma3.build("a window shorter than an image"), (TOWERS, BETWEEN)),
    "idefics": Case(
        of(
            "IdeficsForVisionText2Text",
            "IdeficsConfig",
            **test_idefics.SMALL,
            **test_idefics.CASES["resampler, every second layer"],
        ),
        more=ROTARY | {"model.vision_model.embeddings.position_ids": POSITIONS},
    ),
    "idefics3": Case(lambda: test_idefics3.build("idefics3"), more=ROTARY),
    "smolvlm": Case(
        lambda: test_idefics3.build("smolvlm, tied, an image token beyond the vocabulary"),
        more={"lm_head.weight": "model.text_model.embed_tokens.weight"},
    ),
    "qwen2_vl": Case(
        lambda: test_qwen2_vl.build("usual"),
        (((r"^model\.visual\.", "visual."), (r"^model\.language_model\.", "model.")),),
    ),
    "vit and bert": Case(
        lambda: parity.randomise(
            transformers.VisionTextDualEncoderModel(
                transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
                    transformers.ViTConfig(**TOWER), transformers.BertConfig(**WORDS)
                )
            )
        ),
        (VIT,),
        {"text_model.embeddings.position_ids": POSITIONS},
    ),
}


def renamed(tensors: Mapping[str, np.ndarray], renames: Renames) -> dict[str, np.ndarray]:
    found = {}
    for name, array in tensors.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        found[name] = array
    return found


def old_file(case: Case, tensors: dict[str, np.ndarray], renames: Renames) -> dict[str, np.ndarray]:
    """The tensors as a published file holds them."""
    more = {n: tensors[x].copy() if isinstance(x, str) else x for n, x in case.more.items()}
    return renamed(tensors, renames) | renamed(more, renames)


@pytest.mark.parametrize("name", CASES)
def test_every_name_is_known(name, tmp_path):
    case = CASES[name]
    model = case.make()
    model.save_pretrained(tmp_path / "built")
    saved, config = (
        load_file(tmp_path / "built" / "model.safetensors"),
        parity.describe(tmp_path / "built"),
    )
    family = pretrained.family_of(config)
    config = family.settle(config, Arrays(saved).shapes)
    _, shapes = pretrained.shapes_of(family, config)
    ignored = family.ignored(config) if callable(family.ignored) else family.ignored

    def read(tensors: dict[str, np.ndarray]) -> Any:
        given: Any = dict(renames=family.renames, ignored=ignored, place=lambda path, array: array)
        return convert.read(Arrays(tensors), shapes, family.rules(config), **given)

    memory, expected = oracles.state_of(model), read(saved)
    files = [memory, *(old_file(case, memory, renames) for renames in case.published)]
    for tensors in files:
        jax.tree.map(np.testing.assert_array_equal, read(tensors), expected)
    if case.theirs:
        for number, tensors in enumerate(files[1:]):
            assert_theirs(model, tmp_path / f"published{number}", config, tensors)


def assert_theirs(model: Any, folder: Path, config: Mapping, tensors: dict) -> None:
    """The reference reads these names."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config)))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"], info
    known = again.state_dict()
    for name, tensor in oracles.state_of(model).items():
        np.testing.assert_array_equal(known[name].numpy(), tensor, err_msg=name)
