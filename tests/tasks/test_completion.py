"""Text alone: what is learned of it, what is read of it, and what its loss is."""

import numpy as np
import pytest

from tests.tasks.test_evaluate import TOKENIZER
from vlm_jax.data.schema import DataError
from vlm_jax.tasks import TASKS


def task(**fields):
    return TASKS["completion"](TOKENIZER, **fields)


def example(*captions, questions=()):
    return dict(id="1", image=None, captions=list(captions), questions=list(questions))


CAPTION = "a red circle"
IDS = TOKENIZER.encode(CAPTION)


@pytest.mark.parametrize("before", [None, (), (3, 4)])
def test_every_token_after_the_beginning_is_predicted_and_the_end_if_wanted(before):
    first = [TOKENIZER.bos] if before is None else [*before]
    for ended in (True, False):
        row = task(length=9, before=before, ended=ended).preprocess(example(CAPTION), None)
        whole = [*first, *IDS, *[TOKENIZER.eos] * ended]
        assert row["tokens"][row["tokens_mask"]].tolist() == whole[:-1]
        assert row["targets"][row["targets_mask"]].tolist() == whole[max(len(first), 1) :]
        assert row["prefix"] == len(first) and row["tokens"].shape == (9,)


def test_a_long_text_loses_its_end():
    row = task(length=2).preprocess(example(CAPTION), None)
    assert row["tokens"].tolist() == [TOKENIZER.bos, *IDS[:1]] and row["targets_mask"].all()


def test_an_encoder_reads_the_question_and_the_answer_is_learned():
    asked = dict(question="a blue square", answers=["red", "circle", "red"])
    row = task(length=8, encoded=True, before=(7,)).preprocess(example(questions=[asked]), None)
    assert row["text"][row["text_mask"]].tolist() == [
        *TOKENIZER.before,
        *TOKENIZER.encode("a blue square"),
        *TOKENIZER.after,
    ]
    assert row["tokens"][0] == 7
    assert row["targets"][row["targets_mask"]].tolist() == [*TOKENIZER.encode("red"), TOKENIZER.eos]


def test_examples_without_a_text_are_named():
    with pytest.raises(DataError, match="example 1 has no caption, the text that is learned"):
        task().preprocess(example(), None)
    with pytest.raises(DataError, match="leaves no token to predict"):
        task(ended=False, before=()).preprocess(example("red"), None)


class Run:
    """Loses as many nats per token as the row has targets."""

    def losses(self, task, rows):
        assert len({row["tokens"].shape for row in rows}) == 1
        return np.array([row["targets_mask"].sum() for row in rows], np.float32)


class Source(list):
    name = "texts"


def test_texts_are_scored_per_token_beside_the_frequencies_of_their_tokens():
    texts = ["a red circle", "a circle", "red"]
    source = Source([example(*texts[:2]), example(texts[2])])
    found = dict(task(length=300).evaluate(Run(), source))
    counts = np.array([len(TOKENIZER.encode(text)) + 1 for text in texts])
    assert found["loss"][0] == pytest.approx((counts**2).sum() / counts.sum())
    assert found["perplexity"][0] == pytest.approx(np.exp(found["loss"][0]))
    said = [i for text in texts for i in (*TOKENIZER.encode(text), TOKENIZER.eos)]
    shares = np.unique(said, return_counts=True)[1] / len(said)
    assert found["loss/unigram"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert (found["n"], found["n_tokens"]) == (3, counts.sum())
    with pytest.raises(DataError, match="texts has no question, the texts that are scored"):
        dict(task(encoded=True).evaluate(Run(), source))
