"""BLIP-2 folders, with OPT and with T5."""

import numpy as np
import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    OPTConfig,
    T5Config,
)

from tests.weights import parity
from vlm_jax.weights.families import blip2
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count

VISIONS = {
    "usual": dict(hidden_size=12, intermediate_size=20, num_hidden_layers=2)
    | dict(num_attention_heads=3, image_size=16, patch_size=8),
    "other": dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, image_size=24)
    | dict(num_attention_heads=2, patch_size=8, qkv_bias=False, hidden_act="gelu_new")
    | dict(layer_norm_eps=1e-3),
}
QFORMERS = {
    "usual": dict(hidden_size=12, num_hidden_layers=4, num_attention_heads=2, intermediate_size=20),
    "other": dict(hidden_size=16, num_hidden_layers=5, num_attention_heads=4, intermediate_size=12)
    | dict(cross_attention_frequency=3, hidden_act="relu", layer_norm_eps=1e-5),
}
OPT = dict(model_type="opt", vocab_size=50, max_position_embeddings=16, hidden_size=12) | dict(
    num_hidden_layers=2, num_attention_heads=3, ffn_dim=20
)
T5 = dict(model_type="t5", vocab_size=50, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3)
T5 |= dict(decoder_start_token_id=0, relative_attention_num_buckets=8)
CASES = {
    "OPT": ("usual", "usual", OPT, 4),
    "OPT, odd sizes": ("other", "other", OPT | dict(do_layer_norm_before=False), 3),
    "T5, own output layer": ("usual", "other", T5 | dict(feed_forward_proj="gated-gelu"), 3),
    "T5, tied": ("other", "usual", T5, 2),
}
OPT_LARGE = dict(hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, ffn_dim=10240)
T5_LARGE = dict(model_type="t5", d_model=2048, d_ff=5120, num_layers=24, num_heads=32)
T5_LARGE |= dict(feed_forward_proj="gated-gelu")
COUNTS = {
    "OPT-2.7B": (OPT_LARGE, 3_744_679_936),
    "OPT-2.7B, 50304 rows": (OPT_LARGE | dict(vocab_size=50304), 3_744_761_856),
    "Flan-T5 XL as built": (T5_LARGE, 3_876_648_448),
    "Flan-T5 XL": (T5_LARGE | dict(tie_word_embeddings=False), 3_942_446_592),
}


def network(case: str) -> Blip2ForConditionalGeneration:
    vision, qformer, text, queries = CASES[case]
    sections = dict(vision_config=VISIONS[vision], qformer_config=QFORMERS[qformer])
    text = (OPTConfig if text["model_type"] == "opt" else T5Config)(**text)
    config = Blip2Config(
        **sections, text_config=text, num_query_tokens=queries, image_token_index=49
    )
    model = parity.randomise(Blip2ForConditionalGeneration(config))
    if case == "T5, own output layer":
        noise = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
        model.language_model.lm_head.weight = torch.nn.Parameter(0.3 * noise)
    return model


@pytest.mark.parametrize("case", CASES)
def test_blip2(case, tmp_path):
    vision, _, text, queries = CASES[case]
    size = VISIONS[vision]["image_size"]
    ids = np.concatenate([np.full((2, queries), 49), parity.tokens(2, 6, 49)], axis=1)
    mask = np.ones_like(ids)
    mask[1, -2:] = 0
    pixels = parity.pixels(2, 3, size, size)
    inputs = dict(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    writes = inputs | dict(attention_mask=np.ones_like(ids))
    if text["model_type"] == "t5":
        inputs["decoder_input_ids"] = parity.tokens(2, 5, 49, seed=1)
    where = {"logits": mask} if text["model_type"] == "opt" else None
    parity.check(network(case), inputs, tmp_path, theirs=ask, where=where, writes=writes)


def ask(model, given):
    found = model(**given)
    queries = found.qformer_outputs.last_hidden_state
    image_tokens = found.vision_outputs.last_hidden_state
    return dict(logits=found.logits, queries=queries, image_tokens=image_tokens)


def test_states_on_the_way_have_names(tmp_path):
    model = network("OPT")
    model.save_pretrained(tmp_path)
    ids = np.concatenate([np.full((2, 4), 49), parity.tokens(2, 3, 49)], axis=1)
    inputs = dict(pixel_values=parity.pixels(2, 3, 16, 16), input_ids=ids)
    names = ("logits", "queries", "image_tokens")
    expected = parity.outputs(model, inputs, ask, names)
    parity.compare(parity.run(parity.read_folder(tmp_path), "forward", inputs), expected, 1e-5)


RETRIEVING = {
    "usual": QFORMERS["usual"] | dict(num_hidden_layers=2, vocab_size=40),
    "other": QFORMERS["other"]
    | dict(num_hidden_layers=1, cross_attention_frequency=1)
    | dict(vocab_size=31, max_position_embeddings=9),
}


def retriever(case: str) -> Blip2ForImageTextRetrieval:
    words = RETRIEVING[case] | dict(use_qformer_text_input=True)
    config = Blip2Config(vision_config=VISIONS[case], qformer_config=words, text_config=OPT)
    config.num_query_tokens, config.image_token_index = (3, 39) if case == "usual" else (4, None)
    config.image_text_hidden_size = 10
    return parity.randomise(Blip2ForImageTextRetrieval(config))


@pytest.mark.parametrize("case", RETRIEVING)
def test_retrieval(case, tmp_path):
    """With an image token, texts begin with one for every query."""
    model = retriever(case)
    queries, token = model.config.num_query_tokens, model.config.image_token_index
    model.embeddings.word_embeddings.padding_idx = None  # which would keep row 0 from learning
    ids, mask = parity.tokens(2, 7, 31), np.array([[1] * 7, [1] * 5 + [0] * 2])
    if token is not None:
        ids = np.concatenate([np.full((2, queries), token), ids], axis=1)
        mask = np.concatenate([np.ones((2, queries), np.int64), mask], axis=1)
    size = VISIONS[case]["image_size"]
    given = dict(pixel_values=parity.pixels(2, 3, size, size), input_ids=ids, attention_mask=mask)
    names = ("logits_per_image", "image_embeds", "text_embeds")
    options = dict(names=names, call="contrast", gradients=case == "usual")
    loaded = parity.check(model, given, tmp_path, **options)
    flags = dict(use_image_text_matching_head=True)
    ask = lambda m, i: {"logits": m(**i, **flags).logits_per_image}
    expected = parity.outputs(model, given, ask, ("logits",))
    parity.compare(loaded.call("forward", given, flags), expected, 1e-5)
    if case == "other":
        parity.compare_with_gradients(model, loaded, "match", given, ask, ("logits",))


def test_count_of_the_retrieving_network():
    qformer = dict(use_qformer_text_input=True, vocab_size=30523)
    config = dict(model_type="blip-2", architectures=["Blip2ForImageTextRetrieval"])
    assert count(config | dict(qformer_config=qformer)) == 1_172_032_258


@pytest.mark.parametrize("label", COUNTS)
def test_counts(label):
    text, expected = COUNTS[label]
    assert count(dict(model_type="blip-2", text_config=text)) == expected


def test_unsupported_values_are_named():
    with pytest.raises(WeightsError, match="model_type='llama'"):
        blip2.model(dict(text_config=dict(model_type="llama")))
    with pytest.raises(WeightsError, match="use_qformer_text_input=True"):
        blip2.model(dict(qformer_config=dict(use_qformer_text_input=True)))
