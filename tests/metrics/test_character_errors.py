"""Character error rate on cases worked out by hand."""

import pytest

from vlm_jax.metrics import mean_of, score, score_file
from vlm_jax.metrics.character_errors import character_errors


@pytest.mark.parametrize(
    ("prediction", "answers", "edits", "characters"),
    [
        ("cat face", ["cat face"], 0, 8),
        ("cot fac", ["cat face"], 2, 8),
        ("", ["cat"], 3, 3),
        ("a very long answer", ["cat"], 17, 3),
        ("Cat", ["cat"], 1, 3),  # case counts
        ("the cat", ["cat"], 4, 3),  # and so do articles
        ("  cat \n face", ["cat face"], 0, 8),
        ("cafe\u0301", ["caf\u00e9"], 0, 4),
        ("caf", ["caf\u00e9"], 1, 4),
        ("roses", ["a rose", "roses are red"], 3, 6),  # 3/6 is less than 8/13
        ("rose", ["rosy", "rose"], 0, 4),
    ],
)
def test_edits_and_characters(prediction, answers, edits, characters):
    found = character_errors({1: prediction}, {1: answers})
    assert (found[0][0], found[1][0]) == (edits, characters)


def test_the_rate_is_of_all_characters_and_not_the_mean_of_rates():
    given, answers = {1: "x", 2: "a" * 9}, {1: ["b"], 2: ["a" * 9]}
    edits, characters = character_errors(given, answers)
    assert score([mean_of("CER", edits, characters)])["CER"].value == 0.1


def test_order_and_ids():
    edits, _ = character_errors({2: "aa", 1: "b"}, {1: ["b"], 2: ["a"]})
    assert edits.tolist() == [1, 0]
    with pytest.raises(ValueError, match="without a prediction: 1"):
        character_errors({3: "a"}, {1: ["a"]})


def test_files_are_scored_with_it(tmp_path):
    given, truth = tmp_path / "given.jsonl", tmp_path / "truth.jsonl"
    given.write_text('{"id": "1", "answer": "grey haert"}\n{"id": "2", "answer": "ox"}\n')
    truth.write_text('{"id": "1", "answers": ["grey heart"]}\n{"id": "2", "answers": ["ox"]}\n')
    found = score_file(given, truth).scores["CER"]
    assert (found.value, found.n) == (2 / 12, 2)
    assert found.low == 0
