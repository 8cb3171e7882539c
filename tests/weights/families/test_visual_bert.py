"""VisualBERT folders."""

import numpy as np
import pytest
from transformers import (
    VisualBertConfig,
    VisualBertForMultipleChoice,
    VisualBertForPreTraining,
    VisualBertForQuestionAnswering,
    VisualBertForRegionToPhraseAlignment,
    VisualBertForVisualReasoning,
    VisualBertModel,
)

from tests.weights import parity
from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pretrained import count, read_folder

CONFIGS = {
    "wide heads": dict(hidden_size=24, num_attention_heads=2, intermediate_size=20)
    | dict(num_hidden_layers=3, vocab_size=40, max_position_embeddings=9, visual_embedding_dim=10)
    | dict(num_labels=7),
    "three types": dict(hidden_size=16, num_attention_heads=8, intermediate_size=36)
    | dict(num_hidden_layers=1, vocab_size=33, max_position_embeddings=8, visual_embedding_dim=21)
    | dict(type_vocab_size=3, hidden_act="relu", layer_norm_eps=1e-3, num_labels=1),
}
CLASSES = {
    VisualBertModel: dict(tokens="last_hidden_state", pooled="pooler_output"),
    VisualBertForPreTraining: dict(logits="prediction_logits", score="seq_relationship_logits"),
    VisualBertForQuestionAnswering: dict(logits="logits"),
    VisualBertForVisualReasoning: dict(logits="logits"),
    VisualBertForMultipleChoice: dict(logits="logits"),
    VisualBertForRegionToPhraseAlignment: dict(logits="logits"),
}
CASES = [(kind, case) for kind in CLASSES for case in CONFIGS]


def inputs(case: str) -> dict[str, np.ndarray]:
    """The second text is padded, on the left where there are three types."""
    config = CONFIGS[case]
    text, image = np.ones((2, 7), np.int64), np.ones((2, 4), np.int64)
    text[1, slice(2) if case == "three types" else slice(5, None)] = 0
    image[0, 3:] = 0
    given = dict(
        input_ids=parity.tokens(2, 7, config["vocab_size"]),
        attention_mask=text,
        token_type_ids=np.array([[0, 0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]]),
        visual_embeds=parity.pixels(2, 4, config["visual_embedding_dim"]),
        visual_attention_mask=image,
    )
    if case == "three types":
        given["visual_token_type_ids"] = np.array([[1, 2, 2, 1], [0, 1, 2, 1]])
    return given


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_visual_bert(kind, case, tmp_path):
    names, given = CLASSES[kind], inputs(case)
    where = {}
    if kind is VisualBertForMultipleChoice:  # of which the second is read with the other image
        given = {name: np.stack([x, x[::-1]], axis=1) for name, x in given.items()}
    if kind is VisualBertForRegionToPhraseAlignment:  # -1 fills up; words before regions
        given["region_to_phrase_position"] = np.array([[2, 0, 9, -1], [10, 6, 3, 1]])
        seen = given["visual_attention_mask"][:, None] * np.ones((2, 4, 1))
        where = dict(logits=seen)

    def ask(model, given):
        found = model(**given)
        return {ours: found[theirs] for ours, theirs in names.items()}

    model = parity.randomise(kind(VisualBertConfig(**CONFIGS[case])))
    parity.check(
        model, given, tmp_path, names=tuple(names), theirs=ask, where=where
    )  # padding, too


def test_what_is_not_supported_is_named(tmp_path):
    with pytest.raises(WeightsError, match="bypass_transformer=True"):
        count(dict(model_type="visual_bert", bypass_transformer=True))
    VisualBertModel(VisualBertConfig(**CONFIGS["wide heads"])).save_pretrained(tmp_path)
    given = inputs("wide heads") | dict(image_text_alignment=np.zeros((2, 4, 1), np.int64))
    with pytest.raises(ValueError, match="image_text_alignment"):
        read_folder(tmp_path).call("forward", given)


REGIONS = dict(model_type="visual_bert", visual_embedding_dim=2048)
COUNTS = {
    "base": ("VisualBertModel", {}, 111_450_624),
    "base, pre-training": ("VisualBertForPreTraining", {}, 112_074_812),
    "base, reasoning": ("VisualBertForVisualReasoning", {}, 111_452_162),
    "base, choices": ("VisualBertForMultipleChoice", {}, 111_451_393),
    "base, phrases": ("VisualBertForRegionToPhraseAlignment", {}, 112_222_460),
    "base, answers": ("VisualBertForQuestionAnswering", dict(num_labels=3129), 113_856_825),
}


@pytest.mark.parametrize("label", COUNTS)
def test_published_sizes(label):
    kind, config, expected = COUNTS[label]
    assert count(REGIONS | dict(architectures=[kind]) | config) == expected
