"""LXMERT folders."""

import numpy as np
import pytest
from transformers import (
    LxmertConfig,
    LxmertForPreTraining,
    LxmertForQuestionAnswering,
    LxmertModel,
)

from tests.weights import parity
from vlm_jax.weights.pretrained import count

CONFIGS = {
    "odd depths": dict(hidden_size=24, num_attention_heads=2, intermediate_size=20, vocab_size=40)
    | dict(l_layers=2, x_layers=3, r_layers=1, visual_feat_dim=10, visual_pos_dim=4)
    | dict(max_position_embeddings=9, num_qa_labels=6, num_object_labels=5, num_attr_labels=4),
    "relu, larger boxes": dict(hidden_size=16, num_attention_heads=8, intermediate_size=36)
    | dict(l_layers=1, x_layers=1, r_layers=2, visual_feat_dim=7, visual_pos_dim=6, vocab_size=33)
    | dict(max_position_embeddings=7, num_qa_labels=3, hidden_act="relu", type_vocab_size=3)
    | dict(task_qa=False, visual_attr_loss=False),
}
CLASSES = {
    LxmertModel: dict(
        text_tokens="language_output", image_tokens="vision_output", pooled="pooled_output"
    ),
    LxmertForPreTraining: dict(
        logits="prediction_logits",
        score="cross_relationship_score",
        answers="question_answering_score",
    ),
    LxmertForQuestionAnswering: dict(logits="question_answering_score"),
}
CASES = [(kind, case) for kind in CLASSES for case in CONFIGS]
LEARNING = [(LxmertModel, "odd depths"), (LxmertForQuestionAnswering, "relu, larger boxes")]
"""Whose gradients are compared, too, besides those of LxmertForPreTraining, which has both."""


def inputs(case: str) -> dict[str, np.ndarray]:
    """The second text is padded, on the left where boxes are larger."""
    config = CONFIGS[case]
    text, image = np.ones((2, 7), np.int64), np.ones((2, 4), np.int64)
    text[1, slice(5, None) if case == "odd depths" else slice(2)] = 0
    image[0, 3:] = 0
    return dict(
        input_ids=parity.tokens(2, 7, config["vocab_size"]),
        attention_mask=text,
        token_type_ids=np.array([[0, 0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0, 0]]),
        visual_feats=parity.pixels(2, 4, config["visual_feat_dim"]),
        visual_pos=parity.pixels(2, 4, config["visual_pos_dim"], seed=1),
        visual_attention_mask=image,
    )


def build(kind: type, case: str):
    model = parity.randomise(kind(LxmertConfig(**CONFIGS[case])))
    inner = model if kind is LxmertModel else model.lxmert
    for name in ("word", "position", "token_type"):
        # The reference keeps row 0 of these tables from learning, which is no part of the network.
        getattr(inner.embeddings, f"{name}_embeddings").padding_idx = None
    return model


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_lxmert(kind, case, tmp_path):
    names, given = dict(CLASSES[kind]), inputs(case)
    if not CONFIGS[case].get("task_qa", True) and kind is LxmertForPreTraining:
        del names["answers"]

    def ask(model, given):
        found = model(**given)
        outputs = {ours: found[theirs] for ours, theirs in names.items()}
        if kind is not LxmertForPreTraining:
            return outputs
        regions = model.obj_predict_head(model.lxmert(**given).vision_output)
        return outputs | {f"region_{name}": score for name, score in regions.items()}

    text, image = given["attention_mask"], given["visual_attention_mask"]
    where = dict(text_tokens=text, image_tokens=image)
    model, compared = build(kind, case), tuple(names)
    if kind is LxmertForPreTraining:  # which computes the scores of regions for its loss alone
        compared += tuple(f"region_{name}" for name in model.obj_predict_head.visual_losses)
        where |= dict(logits=text) | dict.fromkeys(compared[len(names) :], image)
    learns = kind is LxmertForPreTraining or (kind, case) in LEARNING
    options = dict(theirs=ask, where=where, gradients=learns)
    parity.check(model, given, tmp_path, names=compared, **options)


COUNTS = {
    "base": ("LxmertModel", {}, 207_936_768),
    "base, pre-training": ("LxmertForPreTraining", {}, 228_051_752),
    "base, 9500 answers": ("LxmertForQuestionAnswering", {}, 223_722_524),
    "base, 3129 answers": ("LxmertForQuestionAnswering", dict(num_qa_labels=3129), 213_930_297),
}


@pytest.mark.parametrize("label", COUNTS)
def test_published_sizes(label):
    kind, config, expected = COUNTS[label]
    assert count(dict(model_type="lxmert", architectures=[kind]) | config) == expected
