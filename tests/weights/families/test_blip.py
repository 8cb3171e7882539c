"""BLIP folders."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count, read_folder

HEAD = "text_decoder.cls.predictions"

SPECIAL = dict(bos_token_id=38, eos_token_id=2, pad_token_id=0, sep_token_id=5)
CASES = {
    "one width": (
        dict(hidden_size=24, num_attention_heads=2, intermediate_size=20, num_hidden_layers=3)
        | dict(vocab_size=40, max_position_embeddings=12, hidden_act="gelu_new"),
        dict(hidden_size=24, num_attention_heads=3, intermediate_size=16, num_hidden_layers=1)
        | dict(image_size=32, patch_size=16),
    ),
    "two widths": (
        dict(hidden_size=16, num_attention_heads=8, intermediate_size=28, num_hidden_layers=1)
        | dict(vocab_size=41, max_position_embeddings=10, layer_norm_eps=1e-3),
        dict(hidden_size=20, num_attention_heads=5, intermediate_size=12, num_hidden_layers=3)
        | dict(image_size=24, patch_size=8, layer_norm_eps=1e-4, hidden_act="quick_gelu"),
    ),
}


def build(kind: type, case: str, **fields):
    text, vision = CASES[case]
    if kind is BlipForQuestionAnswering and case == "two widths":
        text = text | dict(hidden_size=20, num_attention_heads=4)  # answers attend to questions
    config = BlipConfig(
        text_config=text | SPECIAL, vision_config=vision, image_text_hidden_size=14, **fields
    )
    return parity.randomise(kind(config))


def inputs(case: str) -> dict[str, np.ndarray]:
    size = CASES[case][1]["image_size"]
    mask = np.ones((2, 7), np.int64)
    mask[1, 5:] = 0
    ids = parity.tokens(2, 7, 38)
    return dict(pixel_values=parity.pixels(2, 3, size, size), input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("case", CASES)
def test_captions(case, tmp_path):
    given = inputs(case)

    def ask(model, given):
        found = model(**given)
        return {"logits": found.logits, "image_tokens": found.image_embeds}

    parity.check(
        build(BlipForConditionalGeneration, case),
        given,
        tmp_path,
        names=("logits", "image_tokens"),
        theirs=ask,
        writes=dict(pixel_values=given["pixel_values"]),
        where=dict(logits=given["attention_mask"]),
    )


def answer_logits(model, given):
    """The reference computes them, but keeps only their loss."""
    seen = model.vision_model(given["pixel_values"]).last_hidden_state
    mask = given["attention_mask"]
    read = model.text_encoder(given["input_ids"], mask, encoder_hidden_states=seen)
    answers = {name: given[f"decoder_{name}"] for name in ("input_ids", "attention_mask")}
    known = dict(encoder_hidden_states=read.last_hidden_state, encoder_attention_mask=mask)
    return {"logits": model.text_decoder(**answers, **known).logits}


@pytest.mark.parametrize("case", CASES)
def test_answers(case, tmp_path):
    model, given = build(BlipForQuestionAnswering, case), inputs(case)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    answers = dict(decoder_input_ids=parity.tokens(2, 4, 38, seed=1), decoder_attention_mask=mask)
    parity.check(
        model,
        given | answers,
        tmp_path,
        theirs=answer_logits,
        writes=given,
        where=dict(logits=mask),
    )


@pytest.mark.parametrize("case", CASES)
def test_retrieval(case, tmp_path):
    model, given = build(BlipForImageTextRetrieval, case), inputs(case)

    def match(model, given):
        return {"logits": model(**given).itm_score}

    def contrast(model, given):
        return {"score": model(**given, use_itm_head=False).itm_score}

    loaded = parity.check(model, given, tmp_path, call="match", theirs=match)
    parity.compare_with_gradients(model, loaded, "contrast", given, contrast, ("score",))


def test_copies_and_buffers_of_published_folders_are_ignored(tmp_path):
    model = build(BlipForConditionalGeneration, "one width")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    words = tensors["text_decoder.bert.embeddings.word_embeddings.weight"]
    copies = {"decoder.weight": words, "decoder.bias": tensors[f"{HEAD}.bias"]}
    tensors |= {f"{HEAD}.{name}": value.copy() for name, value in copies.items()}
    tensors["text_decoder.bert.embeddings.position_ids"] = np.arange(12)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    given = inputs("one width")
    expected = parity.outputs(model, given, lambda m, i: m(**i), ("logits",))
    where = dict(logits=given["attention_mask"])
    parity.compare(parity.run(read_folder(tmp_path), "forward", given), expected, 1e-5, where)


def test_what_is_not_supported_is_named():
    with pytest.raises(WeightsError, match="is_decoder=False"):
        count(dict(model_type="blip", text_config=dict(is_decoder=False)))


BASE = dict(text_config=dict(num_attention_heads=12), vision_config={})
LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
COUNTS = {
    "base, captions": ("BlipForConditionalGeneration", BASE, 223_971_644),
    "base, answers": ("BlipForQuestionAnswering", BASE, 361_230_140),
    "base, retrieval": ("BlipForImageTextRetrieval", BASE, 223_744_258),
    "large, captions": (
        "BlipForConditionalGeneration",
        BASE | dict(vision_config=LARGE),
        446_290_492,
    ),
}


@pytest.mark.parametrize("label", COUNTS)
def test_published_sizes(label):
    kind, config, expected = COUNTS[label]
    assert count(dict(model_type="blip", architectures=[kind]) | config) == expected
