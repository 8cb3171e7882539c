"""Ids: one order for every corpus, errors that name them, and parts that join without a trace."""

import numpy as np
import pytest

from vlm_jax.metrics import caption_metrics, merge, vqa_accuracy
from vlm_jax.metrics.identity import check_ids, in_id_order

WORDS = "a red dog runs near the old tree while two cats sleep in warm sun".split()


def _captions(count):
    rng = np.random.default_rng(3)
    text = lambda: " ".join(rng.choice(WORDS, size=rng.integers(3, 12)))
    references = {i: [text() for _ in range(rng.integers(1, 5))] for i in range(count)}
    return {i: text() for i in references}, references


def test_numbers_come_before_texts_and_both_in_order():
    assert in_id_order(["b", 10, "a", 9]) == [9, 10, "a", "b"]


def test_parts_of_several_processes_score_as_one_process_to_the_last_digit():
    predictions, references = _captions(57)
    whole = caption_metrics(predictions, references)
    for processes in (2, 3, 8):
        ids = list(predictions)
        parts = [{key: predictions[key] for key in ids[p::processes]} for p in range(processes)]
        assert caption_metrics(merge(reversed(parts)), references) == whole


def test_no_order_of_examples_changes_a_last_digit():
    predictions, references = _captions(40)
    answers = {key: [*group, "x", "y", "z"] for key, group in references.items()}
    shuffled = [int(i) for i in np.random.default_rng(0).permutation(40)]
    backwards = {key: predictions[key] for key in shuffled}
    swapped = {key: references[key] for key in sorted(references, reverse=True)}
    assert caption_metrics(backwards, swapped) == caption_metrics(predictions, references)
    assert vqa_accuracy(backwards, answers) == vqa_accuracy(predictions, answers)


def test_an_id_in_two_parts_is_named():
    with pytest.raises(ValueError, match="1 ids in more than one part: 'b'"):
        merge([{"a": 1, "b": 2}, {"b": 2}])


def test_at_most_five_ids_are_named():
    with pytest.raises(ValueError, match=r"7 ids without a prediction: 1, 2, 3, 4, 5, \.\.\.$"):
        check_ids({0: "x"}, {i: ["y"] for i in range(8)})


def test_a_prediction_must_be_text():
    with pytest.raises(ValueError, match="1 ids whose prediction is not a string: 'a'"):
        check_ids({"a": 5}, {"a": ["5"]})
