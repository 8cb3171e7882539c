"""Evaluation of every task against runs whose answers are known: perfect ones, wrong ones, none."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.data.schema import DataError
from vlm_jax.metrics import Score
from vlm_jax.tasks import TASKS
from vlm_jax.tasks.retrieval import _chance
from vlm_jax.tasks.vqa import answer_vocabulary
from vlm_jax.tokenizers import make_tokenizer

COLOURS = ["red", "blue", "green", "black"]
ANIMALS = ["dog", "cat", "bird", "fish"]


class Source(list):
    name = "animals"


def source(count=8):
    """Every example says its own colour and animal."""
    return Source(
        {
            "id": f"e{i}",
            "image": np.zeros((4, 4, 3), np.uint8),
            "captions": [
                f"a {COLOURS[i % 4]} {ANIMALS[i // 4 % 4]} number {i} on the grass",
                f"animal {i}",
            ],
            "questions": [
                {"question": "what colour is it", "answers": [COLOURS[i % 4]], "type": "colour"},
                {"question": f"is it {ANIMALS[i % 4]}", "answers": ["yes"], "type": "yes/no"},
            ],
            "label": ANIMALS[i % 2],
        }
        for i in range(count)
    )


TOKENIZER = make_tokenizer(
    {"name": "word"}, lambda: [text for example in source() for text in example["captions"]]
)
ANSWERS = ("yes", *COLOURS)


class Run:
    """Stands for a trained model: `answer(position, example)` says what it outputs."""

    def __init__(self, answer, skip=()):
        self.answer, self.skip, self.predictions, self.length = answer, skip, None, None

    def rows(self, ask, source, inputs):
        for i in range(len(source)):
            try:
                inputs(source[i])
            except DataError:
                continue
            if i not in self.skip:
                yield i, self.answer(i, source[i])

    def write(self, source, inputs, length, **options):
        self.length = length
        return dict(self.rows("generate", source, inputs))

    def image_embeddings(self, source):
        return self.rows("embed_image", source, lambda example: {})

    def text_embeddings(self, task, texts):
        return np.stack([self.text_vector(text) for text in texts])

    def save_predictions(self, rows):
        self.predictions = rows


def one_hot(index, size):
    return np.eye(size, dtype=np.float32)[index]


def evaluate(name, run, data, train=None, options=None, **fields):
    task = TASKS[name](TOKENIZER, **fields)
    return values(task.evaluate(run, data, train, **(options or {})))


def values(found):
    """The values alone; every interval has its value between its ends."""
    found = dict(found)
    for score in found.values():
        assert not isinstance(score, Score) or score.low <= score.value <= score.high
    return {name: getattr(score, "value", score) for name, score in found.items()}


def test_perfect_captions_score_fully_and_those_of_another_image_do_not():
    run = Run(lambda i, example: example["captions"][0])
    found = evaluate("captioning", run, source())
    assert found["BLEU-4"] == pytest.approx(1) and found["ROUGE-L"] == pytest.approx(1)
    assert found["BLEU-4/other_image"] < 0.7 and found["CIDEr-D/other_image"] < found["CIDEr-D"]
    assert found["n"] == 8 and "attribute_f1" not in found
    assert run.predictions[3] == {"id": "e3", "caption": source()[3]["captions"][0]}


def test_captions_of_another_image_score_what_the_baseline_says():
    data = source()
    run = Run(lambda i, example: data[i - 1]["captions"][0])
    found = evaluate("captioning", run, data)
    assert found["CIDEr-D"] == pytest.approx(found["CIDEr-D/other_image"])


def test_attributes_are_scored_where_the_scene_is_known():
    data = source(4)
    for example in data:
        example["captions"] = ["a red circle"]
        example["scene"] = {"objects": [{"colour": "red", "shape": "circle"}]}
    data[3]["scene"] = {"objects": [{"colour": "blue", "shape": "square"}]}
    found = evaluate("captioning", Run(lambda i, example: "a red circle"), data)
    assert found["attribute_f1"] == pytest.approx(0.75)


def test_unreadable_images_do_not_count():
    run = Run(lambda i, example: example["captions"][0], skip=(2, 5))
    assert evaluate("captioning", run, source())["n"] == 6


def test_vqa_answers_are_scored_per_type_once_per_question():
    right = Run(lambda i, e: {"logits": one_hot(ANSWERS.index(e["questions"][0]["answers"][0]), 5)})
    found = evaluate("vqa", right, source(), answers=ANSWERS)
    assert found["accuracy"] == found["accuracy/type/colour"] == found["f1_macro"] == 1
    assert found["n"] == 16
    assert right.predictions[1] == {"id": "e0/1", "question": "is it dog", "answer": "yes"}
    always_yes = Run(lambda i, e: {"logits": one_hot(0, 5)})
    found = evaluate("vqa", always_yes, source(), answers=ANSWERS)
    assert found["accuracy"] == 0.5
    assert (found["accuracy/type/colour"], found["accuracy/type/yes/no"]) == (0, 1)


def test_the_blind_baseline_knows_the_questions_alone():
    """Trained on three red ones and a blue one, it says red to every colour question."""
    train, data = source(4), source(8)
    for example, colour in zip(train, ["red", "red", "blue", "red"], strict=True):
        example["questions"][0]["answers"] = [colour]
    run = Run(lambda i, e: {"logits": one_hot(0, 5)})
    found = evaluate("vqa", run, data, train, answers=ANSWERS)
    assert found["accuracy/type/colour/question_only"] == 0.25  # two of eight are red
    assert found["accuracy/type/yes/no/question_only"] == 1
    assert found["accuracy/question_only"] == 0.625


def test_the_blind_baseline_backs_off_to_the_first_words():
    train, data = source(1), source(2)
    data[0]["questions"] = [{"question": "what colour is the sky", "answers": ["red"]}]
    data[1]["questions"] = [{"question": "who knows", "answers": ["red"]}]
    run = Run(lambda i, e: {"logits": one_hot(0, 5)})
    found = evaluate("vqa", run, data, train, answers=ANSWERS)
    assert found["accuracy/question_only"] >= 0.5  # "what colour is" was red in training


@pytest.mark.parametrize(("question_to", "length"), [("decoder", 12), ("text", 32)])
def test_generated_answers_are_scored_and_have_room_within_the_trained_length(question_to, length):
    run = Run(lambda i, e: e["questions"][0]["answers"][0].upper() + "!")
    found = evaluate("vqa_generation", run, source(), question_to=question_to)
    assert found["accuracy"] == 1  # case and punctuation do not count
    assert run.length == length


def test_classification_is_scored_and_unknown_classes_are_left_out():
    data = source(8)
    data[7]["label"] = "unicorn"
    labels = ("cat", "dog")
    right = Run(lambda i, e: {"logits": one_hot(labels.index(e["label"]), 2)})
    found = evaluate("classification", right, data, labels=labels)
    assert found["accuracy"] == found["f1_macro"] == 1 and found["n"] == 7
    assert found["accuracy/majority"] == pytest.approx(4 / 7)
    dog = Run(lambda i, e: {"logits": one_hot(1, 2)})
    found = evaluate("classification", dog, data, labels=labels)
    assert found["accuracy"] == found["accuracy/majority"]


def test_masked_words_are_judged_in_matched_pairs_only():
    task = TASKS["masked_pretraining"](TOKENIZER, length=12)
    data = source(16)
    given = [task.preprocess(example, None) for example in data]
    matched = [bool(arrays["matched"]) for arrays in given]
    assert 0 < sum(matched) < 16

    def perfect(i, example):
        words = np.eye(TOKENIZER.size)[given[i]["targets"]]
        return {"word_logits": words, "match_logits": one_hot(int(matched[i]), 2)}

    def wrong_words_if_unmatched(i, example):
        found = perfect(i, example)
        return found if matched[i] else found | {"word_logits": -found["word_logits"]}

    for answer in (perfect, wrong_words_if_unmatched):
        found = values(task.evaluate(Run(answer), data))
        assert found["masked_accuracy"] == found["match_accuracy"] == 1 and found["n"] == 16
    wrong = Run(lambda i, e: {k: -v for k, v in perfect(i, e).items()})
    found = values(task.evaluate(wrong, data))
    assert found["masked_accuracy"] == found["match_accuracy"] == 0
    assert found["match_accuracy/chance"] == max(sum(matched), 16 - sum(matched)) / 16


def test_the_first_score_may_be_that_of_a_match_or_there_is_none():
    data, fields = source(16), dict(length=12)
    first = TASKS["masked_pretraining"](TOKENIZER, match_class=0, **fields)
    given = [first.preprocess(example, None) for example in data]
    judged = lambda i, e: {
        "word_logits": np.eye(TOKENIZER.size)[given[i]["targets"]],
        "match_logits": one_hot(int(not given[i]["matched"]), 2),
    }
    assert values(first.evaluate(Run(judged), data))["match_accuracy"] == 1
    alone = TASKS["masked_pretraining"](TOKENIZER, match_weight=0, mismatch_rate=0, **fields)
    given = [alone.preprocess(example, None) for example in data]
    words = lambda i, e: {"word_logits": np.eye(TOKENIZER.size)[given[i]["targets"]]}
    found = values(alone.evaluate(Run(words), data))
    assert found == {"masked_accuracy": 1, "n": 16}
    outputs = {"word_logits": jnp.zeros((1, 12, TOKENIZER.size))}
    batch = {name: jnp.asarray(value)[None] for name, value in given[0].items()}
    np.testing.assert_allclose(alone.loss(outputs, batch), np.log(TOKENIZER.size), rtol=1e-5)
    with pytest.raises(ValueError, match="set the task's match_weight=0"):
        first.loss(outputs, batch)


def test_mismatched_texts_are_those_of_the_next_example_whatever_the_batch():
    task = TASKS["masked_pretraining"](TOKENIZER, length=12)
    data, shown = source(8), {}

    class Reads(Run):
        def rows(self, ask, source, inputs):
            for i in range(len(source)):
                shown[i] = inputs(source[i])
                yield i, {"word_logits": np.zeros((12, 3)), "match_logits": np.zeros(2)}

    dict(task.evaluate(Reads(None), data))
    for i, arrays in shown.items():
        own = task.preprocess(data[i], None)
        expected = own if own["matched"] else task.preprocess(data[(i + 1) % 8], None)
        np.testing.assert_array_equal(arrays["text"], expected["text"])
        assert arrays["matched"]  # nothing is left for the model to swap


def retrieval_run(data, image_vectors, skip=()):
    owner = {text: i for i, example in enumerate(data) for text in example["captions"]}
    run = Run(lambda i, example: image_vectors[i], skip)
    run.text_vector = lambda text: np.eye(len(data), dtype=np.float32)[owner[text]]
    return run


def test_retrieval_of_perfect_and_of_wrong_embeddings():
    data = source(8)
    perfect = np.eye(8, dtype=np.float32)
    run = retrieval_run(data, perfect)
    found = evaluate("retrieval", run, data)
    assert found["image_to_text/R@1"] == found["text_to_image/R@1"] == 1
    assert found["text_to_image/median_rank"] == 1
    assert (found["n"], found["n_texts"]) == (8, 16)
    assert found["text_to_image/R@1/chance"] == pytest.approx(1 / 8)
    assert run.predictions[2]["hits"][0] == "e2"
    found = evaluate("retrieval", retrieval_run(data, np.roll(perfect, 1, axis=0)), data)
    assert found["image_to_text/R@1"] == found["text_to_image/R@1"] == 0


def test_retrieval_counts_chosen_captions_of_readable_images_only():
    data = source(8)
    run = retrieval_run(data, np.eye(8, dtype=np.float32), skip=(3,))
    found = evaluate("retrieval", run, data, options=dict(captions=1))
    assert (found["n"], found["n_texts"]) == (7, 7)


def test_equal_captions_are_right_for_all_their_images():
    data = source(4)
    for example in data[:2]:
        example["captions"] = ["the same words"]
    run = retrieval_run(data, np.eye(4, dtype=np.float32))
    found = evaluate("retrieval", run, data)
    assert found["n_texts"] == 1 + 2 * 2 and found["text_to_image/R@1"] == 1


def sounding(count, audio_vectors, image_vectors):
    """Examples with sounds, and a run that knows the vectors of everything."""
    data = source(count)
    run = retrieval_run(data, image_vectors)
    run.audio_embeddings = lambda source: enumerate(audio_vectors)
    return data, run


def test_retrieval_between_sounds_and_texts():
    data, run = sounding(8, np.eye(8, dtype=np.float32), None)
    options = dict(between=("audio", "text"))
    found = evaluate("retrieval", run, data, **options)
    assert found["audio_to_text/R@1"] == found["text_to_audio/R@1"] == 1
    assert found["text_to_audio/R@1/chance"] == pytest.approx(1 / 8) and found["n_texts"] == 16
    run.audio_embeddings = lambda source: enumerate(np.roll(np.eye(8), 1, axis=0))
    assert evaluate("retrieval", run, data, **options)["audio_to_text/R@1"] == 0


def test_retrieval_between_sounds_and_images():
    vectors = np.eye(8, dtype=np.float32)
    data, run = sounding(8, np.roll(vectors, 1, axis=0), vectors)
    options = dict(between=("audio", "image"))
    found = evaluate("retrieval", run, data, **options)
    assert found["audio_to_image/R@1"] == found["image_to_audio/R@1"] == 0
    assert found["audio_to_image/R@5/chance"] == pytest.approx(5 / 8)
    assert found["n"] == 8 and "n_texts" not in found
    for example in data:  # now each sound fits every image
        example["content"] = "the same"
    assert evaluate("retrieval", run, data, **options)["audio_to_image/R@1"] == 1
    run.audio_embeddings = lambda source: []
    with pytest.raises(DataError, match="no example with both audio and image"):
        evaluate("retrieval", run, data, **options)


def test_retrieval_without_captions_is_an_error():
    data = source(2)
    for example in data:
        example["captions"] = []
    with pytest.raises(DataError, match="animals has no captions"):
        evaluate("retrieval", retrieval_run(data, np.eye(2, dtype=np.float32)), data)


@pytest.mark.parametrize(
    ("right", "candidates", "k"), [(1, 20, 5), (4, 20, 5), (3, 6, 4), (2, 3, 10)]
)
def test_chance_is_what_a_random_order_scores(right, candidates, k):
    rng = np.random.default_rng(0)
    orders = np.argsort(rng.random((20_000, candidates)), axis=1)
    simulated = (orders[:, :k] < right).any(axis=1).mean()
    assert _chance(right, candidates, k) == pytest.approx(simulated, abs=0.015)


def test_the_answer_vocabulary_is_the_commonest_with_ties_in_order():
    assert answer_vocabulary(source(8), 3) == ("yes", "black", "blue")
    assert len(answer_vocabulary(source(8), 100)) == 5
