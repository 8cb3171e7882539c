"""BERT folders."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count, read_folder

CONFIGS = {
    "wide heads": dict(vocab_size=40, hidden_size=24, num_attention_heads=2, intermediate_size=20)
    | dict(num_hidden_layers=3, max_position_embeddings=11, type_vocab_size=3),
    "tanh, large epsilon": dict(vocab_size=33, hidden_size=16, num_attention_heads=8)
    | dict(intermediate_size=36, num_hidden_layers=1, max_position_embeddings=9)
    | dict(hidden_act="gelu_new", layer_norm_eps=1e-3),
}
CLASSES = {
    BertModel: dict(tokens="last_hidden_state", pooled="pooler_output"),
    BertForMaskedLM: dict(logits="logits"),
    BertForPreTraining: dict(logits="prediction_logits", score="seq_relationship_logits"),
}
"""Classes and their names of what is compared."""


def inputs(vocab: int) -> dict[str, np.ndarray]:
    mask = np.ones((2, 7), np.int64)
    mask[1, 4:] = 0
    types = np.array([[0, 0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]])
    ids = parity.tokens(2, 7, vocab)
    return dict(input_ids=ids, attention_mask=mask, token_type_ids=types)


def build(kind: type, case: str):
    return parity.randomise(kind(BertConfig(**CONFIGS[case])))


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("kind", CLASSES)
def test_bert(kind, case, tmp_path):
    names = CLASSES[kind]

    def ask(model, given):
        found = model(**given)
        return {ours: found[theirs] for ours, theirs in names.items()}

    given = inputs(CONFIGS[case]["vocab_size"])
    parity.check(build(kind, case), given, tmp_path, names=tuple(names), theirs=ask)


def test_the_first_releases_names(tmp_path):
    """gamma and beta, and the parts of pre-training in a folder of the masked-word class."""
    build(BertForPreTraining, "wide heads").save_pretrained(tmp_path / "whole")
    model = build(BertForMaskedLM, "wide heads")
    model.save_pretrained(tmp_path / "old")
    tensors = load_file(tmp_path / "whole/model.safetensors")
    tensors |= load_file(tmp_path / "old/model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["bert.embeddings.position_ids"] = np.arange(11)[None]
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }
    save_file(renamed, tmp_path / "old/model.safetensors")
    given = inputs(40)
    expected = parity.outputs(model, given, lambda m, i: m(**i), ("logits",))
    parity.compare(parity.run(read_folder(tmp_path / "old"), "forward", given), expected, 1e-5)


def test_a_bare_network_among_other_names(tmp_path):
    """Tensors of a network with heads, in a folder of the class without; and no class at all."""
    model = build(BertForPreTraining, "wide heads")
    model.save_pretrained(tmp_path)
    config = parity.describe(tmp_path)
    given = inputs(40)
    expected = parity.outputs(
        model, given, lambda m, i: {"pooled": m.bert(**i).pooler_output}, ("pooled",)
    )
    for architectures in (["BertModel"], None):
        text = json.dumps(config | dict(architectures=architectures))
        (tmp_path / "config.json").write_text(text)
        parity.compare(read_folder(tmp_path).call("forward", given), expected, 1e-5)
    bare = BertModel(model.config, add_pooling_layer=False)
    bare.save_pretrained(tmp_path / "bare")
    assert "pooled" not in read_folder(tmp_path / "bare").call("forward", given)


@pytest.mark.parametrize(
    ("field", "value"),
    [("position_embedding_type", "relative_key"), ("architectures", ["BertForTokenThings"])],
)
def test_what_is_not_supported_is_named(field, value):
    with pytest.raises(WeightsError, match=field):
        count(dict(model_type="bert", **{field: value}))


COUNTS = {
    "BERT base": (dict(architectures=["BertModel"]), 109_482_240),
    "BERT base, masked words": (dict(architectures=["BertForMaskedLM"]), 109_514_298),
    "BERT base, pre-training": (dict(architectures=["BertForPreTraining"]), 110_106_428),
}


@pytest.mark.parametrize("label", COUNTS)
def test_published_sizes(label):
    config, expected = COUNTS[label]
    assert count(dict(model_type="bert", vocab_size=30522, hidden_size=768) | config) == expected
