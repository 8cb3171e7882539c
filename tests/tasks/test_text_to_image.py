"""Text to image: what an example teaches, what is hidden, and what evaluation reports."""

from types import SimpleNamespace

import numpy as np
import pytest

from vlm_jax.data.schema import DataError
from vlm_jax.tasks import text_to_image
from vlm_jax.tasks.text_to_image import TextToImage
from vlm_jax.tokenizers import make_tokenizer

WORDS = ["a red circle", "a blue square"]
TOKENIZER = make_tokenizer({"name": "word"}, lambda: WORDS)


class Source(list):
    name = "two texts"


EXAMPLES = Source({"id": f"e{i}", "captions": [text]} for i, text in enumerate(WORDS * 4))


def task(**given):
    return TextToImage(TOKENIZER, image_tokens=16, length=6, **given)


def test_texts_are_dropped_in_training_only():
    blank = task().read("")["text"]
    rng = np.random.default_rng(0)
    drawn = [task(drop=0.5).preprocess(EXAMPLES[0], rng)["text"] for _ in range(200)]
    share = np.mean([np.array_equal(text, blank) for text in drawn])
    assert 0.35 < share < 0.65
    assert not np.array_equal(task(drop=1.0).preprocess(EXAMPLES[0], None)["text"], blank)


def test_a_cosine_share_is_hidden_and_always_the_same_in_evaluation():
    rng = np.random.default_rng(0)
    hidden = [task(parallel=True).preprocess(EXAMPLES[0], rng)["hidden"] for _ in range(300)]
    shares = np.mean(hidden, axis=1)
    assert shares.min() > 0 and abs(shares.mean() - 2 / np.pi) < 0.06
    most = task(parallel=True, hidden_least=0.5)
    counts = {int(most.preprocess(EXAMPLES[0], rng)["hidden"].sum()) for _ in range(300)}
    assert min(counts) == 8 and max(counts) == 16
    first, again = (task(parallel=True).preprocess(EXAMPLES[1], None) for _ in range(2))
    np.testing.assert_array_equal(first["hidden"], again["hidden"])
    assert task(parallel=True).head == "hidden_tokens" and task().head == "next_tokens"


def test_an_example_without_caption_is_named():
    with pytest.raises(DataError, match="e9"):
        task().preprocess({"id": "e9", "captions": []}, None)


class Run:
    """Stands for a model that is sure of the right tokens if it is told the right text."""

    def rows(self, ask, source, inputs):
        for i, example in enumerate(source):
            right = np.array_equal(inputs(example)["text"], task().read(WORDS[i % 2])["text"])
            logits = np.zeros((16, 4), np.float32)
            logits[:, 2] = np.log(9.0) if right else 0.0
            logits[:, 1] = 0.0 if right else np.log(9.0)
            targets = np.full(16, 2)
            yield i, {"logits": logits, "targets": targets, "targets_mask": np.arange(16) < 8}


def test_evaluation_stands_beside_that_of_another_text():
    found = dict(task().evaluate(Run(), EXAMPLES, drawn=0))
    assert found["nll"].value == pytest.approx(np.log(12 / 9), abs=1e-6)
    assert found["nll/other_text"].value == pytest.approx(np.log(12), abs=1e-6)
    assert found["token_accuracy"].value == 1.0 and found["token_accuracy/other_text"].value == 0.0
    assert found["n"] == 8


def test_what_is_not_said_of_a_drawing_is_as_the_config_says(monkeypatch):
    asked = []

    def draw_rows(run, key, *rest):
        asked.append(key)
        return np.zeros((2, 4, 4, 3), np.uint8)

    monkeypatch.setattr(text_to_image, "draw_rows", draw_rows)
    model = SimpleNamespace(codes=4)
    run = SimpleNamespace(experiment=SimpleNamespace(model=model))
    given = dict(guidance=2.0, temperature=0.5)
    task().draw(run, WORDS)
    task(drawing=given).draw(run, WORDS)
    task(drawing=given).draw(run, WORDS, guidance=1.0, top_k=3)
    assert asked == [
        (False, 3.0),
        (False, 2.0, ("temperature", 0.5)),
        (False, 1.0, ("temperature", 0.5), ("top_k", 3)),
    ]
