"""What each task makes of an example: shapes, dtypes, targets, and clear errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.data.schema import DataError
from vlm_jax.tasks import TASKS
from vlm_jax.tokenizers import make_tokenizer

WORDS = ["a red dog", "one big cat sits", "what is it", "photo of", "yes no maybe"]
TOKENIZER = make_tokenizer({"name": "word"}, lambda: WORDS)
ANSWERS = ("yes", "dog", "cat")
FIELDS = {
    "captioning": dict(length=8),
    "vqa": dict(length=6, answers=ANSWERS),
    "vqa_generation": dict(length=8, question_length=5),
    "chat": dict(length=24, format=dict(picture=dict(name="run", token="99", count=2))),
    "retrieval": dict(length=6),
    "masked_pretraining": dict(length=6),
    "classification": dict(length=6, labels=("cat", "dog")),
    "completion": dict(length=8),
    "region_labels": dict(kinds={"colour": ("red", "blue")}, grid=2),
    "image_tokens": {},
    "text_to_image": dict(image_tokens=4, length=6, parallel=True),
    "flow_matching": dict(labels=("cat", "dog"), length=6),
}
EXAMPLE = {
    "id": "7",
    "image": np.zeros((4, 4, 3), np.uint8),
    "captions": ["a red dog", "one big cat sits"],
    "questions": [{"question": "what is it", "answers": ["dog", "cat", "dog"]}],
    "label": "dog",
    "regions": [{"box": [0.0, 0.0, 0.5, 1.0], "labels": {"colour": "red"}}],
}
SHAPES = {
    "text": ("i4", 1), "text_mask": ("b1", 1), "tokens": ("i4", 1), "tokens_mask": ("b1", 1),
    "targets": ("i4", 1), "targets_mask": ("b1", 1), "prefix": ("i4", 0), "label": ("i4", 0),
    "label_weights": ("f4", 1), "known": ("b1", 0), "matched": ("b1", 0),
    "region_labels": ("i4", 2), "region_mask": ("b1", 2), "hidden": ("b1", 1),
    "time": ("f4", 0), "noise": ("u4", 0),
}  # fmt: skip


def task(name, **changes):
    return TASKS[name](TOKENIZER, **(FIELDS[name] | changes))


@pytest.mark.parametrize("name", TASKS)
def test_arrays_have_the_dtypes_and_ranks_of_the_batch_contract(name):
    assert set(FIELDS) == set(TASKS)
    for rng in (None, np.random.default_rng(0)):
        arrays = task(name).preprocess(EXAMPLE, rng)
        for key, value in arrays.items():
            dtype, rank = SHAPES[key]
            assert np.asarray(value).dtype == np.dtype(dtype) and np.ndim(value) == rank, key


OTHERS = {"completion": dict(encoded=True), "flow_matching": dict(labels=())}
OTHERS |= {"retrieval": dict(between=("audio", "image"))}


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_reads_is_all_it_needs_and_it_cannot_do_without(name):
    """Pictures and sounds are read by others."""
    for changes in ({}, *([OTHERS[name]] if name in OTHERS else [])):
        asked = task(name, **changes)
        own = set(asked.reads) - {"image", "audio"}
        bare = {"id": "7", "image": EXAMPLE["image"], "captions": [], "questions": []}
        asked.preprocess(bare | {key: EXAMPLE[key] for key in own}, None)
        if own:
            with pytest.raises(DataError):
                asked.preprocess(bare, None)
        assert ("image" in asked.reads) == (name != "completion")


@pytest.mark.parametrize("name", TASKS)
def test_without_chance_two_calls_agree(name):
    first, second = (task(name).preprocess(EXAMPLE, None) for _ in range(2))
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_retrieval_between_sounds_and_images_reads_no_text():
    assert task("retrieval", between=("audio", "image")).preprocess(EXAMPLE, None) == {}
    assert set(task("retrieval", between=("audio", "text")).preprocess(EXAMPLE, None)) == {
        *("text", "text_mask")
    }


@pytest.mark.parametrize("name", ["captioning", "retrieval", "masked_pretraining"])
def test_chance_chooses_among_captions_and_evaluation_takes_the_first(name):
    key = "text" if name == "retrieval" else "targets"
    seen = {
        tuple(task(name).preprocess(EXAMPLE, np.random.default_rng(seed))[key])
        for seed in range(20)
    }
    assert len(seen) == 2
    only = task(name).preprocess(EXAMPLE | {"captions": EXAMPLE["captions"][:1]}, None)
    np.testing.assert_array_equal(task(name).preprocess(EXAMPLE, None)[key], only[key])


@pytest.mark.parametrize("name", ["captioning", "retrieval", "masked_pretraining"])
def test_an_example_without_captions_is_named(name):
    with pytest.raises(DataError, match="example 7 has no caption"):
        task(name).preprocess(EXAMPLE | {"captions": []}, None)


@pytest.mark.parametrize("name", ["vqa", "vqa_generation"])
def test_an_example_without_questions_is_named(name):
    with pytest.raises(DataError, match="example 7 has no question"):
        task(name).preprocess(EXAMPLE | {"questions": []}, None)


def test_an_example_without_a_known_class_is_named():
    with pytest.raises(DataError, match="example 7 has label 'bird'.*2 classes"):
        task("classification").preprocess(EXAMPLE | {"label": "bird"}, None)


def test_a_caption_counts_and_the_words_before_it_do_not():
    arrays = task("captioning", prompt="photo of").preprocess(EXAMPLE, None)
    counted = arrays["targets"][arrays["targets_mask"]].tolist()
    assert counted == [*TOKENIZER.encode("a red dog"), TOKENIZER.eos]
    assert arrays["prefix"] == 3
    query = task("captioning", prompt="photo of").query(EXAMPLE)
    assert query["tokens"].tolist() == arrays["tokens"][:3].tolist()


def votes(*answers, **changes):
    example = EXAMPLE | {"questions": [{"question": "what is it", "answers": list(answers)}]}
    return task("vqa", **changes).preprocess(example, None)


@pytest.mark.parametrize(
    ("answers", "weights", "label"),
    [
        (["dog"], [0, 1, 0], 1),
        (["cat", "yes", "cat"], [1, 0, 1], 2),
        (["dog"] * 2 + ["cat"] * 8, [0, 0.6, 1], 2),
        (["yes"] * 4 + ["cat"] * 6, [1, 0, 1], 2),
        (["bird"] * 7 + ["dog"] * 3, [0, 0.9, 0], 1),
    ],
)
def test_vqa_targets_follow_the_votes(answers, weights, label):
    arrays = votes(*answers)
    np.testing.assert_allclose(arrays["label_weights"], weights, rtol=1e-6)
    assert arrays["label"] == label and arrays["known"]


def test_an_answer_outside_the_vocabulary_is_not_known_and_costs_nothing():
    arrays = votes("bird")
    assert not arrays["known"] and not arrays["label_weights"].any()
    batch = {key: jnp.asarray(value)[None] for key, value in arrays.items()}
    logits = {"logits": jnp.array([[3.0, -1.0, 0.5]])}
    assert task("vqa").loss(logits, batch)[0] == 0
    assert task("vqa", loss_name="binary").loss(logits, batch)[0] > 0


def test_a_generated_answer_follows_the_question_in_the_decoder():
    arrays = task("vqa_generation").preprocess(EXAMPLE, None)
    assert arrays["targets"][arrays["targets_mask"]].tolist() == [
        *TOKENIZER.encode("dog"),
        TOKENIZER.eos,
    ]
    query = task("vqa_generation").query(EXAMPLE)
    assert len(query["tokens"]) == 5 and query["prefix"] == arrays["prefix"] == 4
    np.testing.assert_array_equal(query["tokens"][:4], arrays["tokens"][:4])


def test_a_long_question_is_cut_alike_in_training_and_evaluation():
    question = {"question": "what is it what is it what is it", "answers": ["dog"]}
    example = EXAMPLE | {"questions": [question]}
    generation = task("vqa_generation")
    arrays, query = generation.preprocess(example, None), generation.query(example)
    np.testing.assert_array_equal(arrays["tokens"][:5], query["tokens"])
    assert arrays["targets_mask"].sum() == 2


def test_a_question_that_may_not_be_cut_is_an_error_where_it_is_too_long():
    whole = task("vqa_generation", cut=False)
    np.testing.assert_array_equal(
        whole.query(EXAMPLE)["tokens"], task("vqa_generation").query(EXAMPLE)["tokens"]
    )
    question = {"question": "what is it what is it", "answers": ["dog"]}
    for ask in (whole.query, lambda example: whole.preprocess(example, None)):
        with pytest.raises(DataError, match="7 tokens, more than question_length=5: shorten it"):
            ask(EXAMPLE | {"questions": [question]})


def test_a_question_to_the_text_encoder_leaves_the_decoder_the_answer():
    generation = task("vqa_generation", question_to="text")
    arrays, query = generation.preprocess(EXAMPLE, None), generation.query(EXAMPLE)
    assert arrays["text"].tolist() == [
        TOKENIZER.bos, *TOKENIZER.encode("what is it"), TOKENIZER.eos
    ]  # fmt: skip
    assert arrays["prefix"] == 1 and query["tokens"].tolist() == [TOKENIZER.bos]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vqa", dict(loss_name="sigmoid"), "'sigmoid': choose"),
        ("retrieval", dict(loss_name="binary"), "'binary': choose"),
        ("retrieval", dict(between=("text", "audio")), "choose two of image, audio, text"),
        ("retrieval", dict(between=("image", "sound")), "choose two of image, audio, text"),
        ("vqa_generation", dict(question_to="image"), "'image': choose"),
        ("vqa_generation", dict(length=5), "leaves no room for an answer"),
    ],
)
def test_options_that_do_not_exist_are_refused_at_once(name, changes, message):
    with pytest.raises(ValueError, match=message):
        task(name, **changes)


def test_masking_hides_replaces_and_keeps_in_the_proportions_of_bert():
    words = " ".join(f"w{i}" for i in range(100))
    tokenizer = make_tokenizer({"name": "word"}, lambda: [words])
    masked = TASKS["masked_pretraining"](tokenizer, length=102)
    rng, example = np.random.default_rng(0), EXAMPLE | {"captions": [words]}
    hidden = replaced = kept = matched = 0
    for _ in range(400):
        arrays = masked.preprocess(example, rng)
        chosen, shown, true = (arrays[key] for key in ("targets_mask", "text", "targets"))
        assert chosen.sum() == 15 and not chosen[0] and not chosen[-1]
        assert (shown[~chosen] == true[~chosen]).all()
        is_mask = shown[chosen] == tokenizer.mask
        same = shown[chosen] == true[chosen]
        hidden, kept = hidden + is_mask.sum(), kept + same.sum()
        replaced, matched = replaced + (~is_mask & ~same).sum(), matched + arrays["matched"]
    total = 400 * 15  # four standard deviations are 2.1 and 1.6 percentage points
    assert abs(hidden / total - 0.8) < 0.021
    assert abs(replaced / total - 0.1) < 0.016 and abs(kept / total - 0.1) < 0.016
    assert abs(matched / 400 - 0.5) < 0.1


def test_padding_is_never_masked_and_a_short_caption_always_has_a_target():
    masked = task("masked_pretraining", length=6, mask_rate=0.01)
    arrays = masked.preprocess(EXAMPLE | {"captions": ["dog"]}, None)
    assert arrays["targets_mask"].tolist() == [False, True] + [False] * 4
    assert arrays["text_mask"].tolist() == [True] * 3 + [False] * 3


def test_captions_to_be_guessed_at_once_hide_every_word():
    captioning = task("captioning", parallel=0.5, mask_token=99)
    plain = task("captioning").preprocess(EXAMPLE, None)
    assert captioning.preprocess(EXAMPLE, None)["tokens"].tolist() == plain["tokens"].tolist()
    rng, hidden = np.random.default_rng(0), 0
    for _ in range(200):
        arrays = captioning.preprocess(EXAMPLE, rng)
        guessed = (arrays["tokens"] == 99) == arrays["targets_mask"]
        hidden += bool(guessed.all())
        assert guessed.all() or (arrays["tokens"] != 99).all()
    assert abs(hidden / 200 - 0.5) < 0.14  # four standard deviations
    with pytest.raises(ValueError, match="mask_token"):
        task("captioning", parallel=0.5)
