"""From a config to an experiment: vocabularies, classes, and mistakes found before training."""

import copy
import json

import numpy as np
import pytest

from vlm_jax import experiment, models
from vlm_jax.data.schema import DataError


class Source(list):
    name = "animals"


def source():
    return Source(
        {
            "id": str(i),
            "image": np.zeros((4, 4, 3), np.uint8),
            "captions": [f"a {animal} runs"],
            "questions": [{"question": "what runs", "answers": [animal, animal]}],
            "label": animal,
        }
        for i, animal in enumerate(["dog", "cat", "dog", "bird"])
    )


def config(**changes):
    made = dict(
        seed=0,
        batch_size=4,
        total_steps=2,
        model=dict(
            vision=dict(name="resnet", depth=18, stages=(1,), width=4),
            text=dict(name="bag_of_words", vocab=32, width=8),
            fusion=dict(name="concat", width=8),
            decoder=dict(name="lstm_merge", vocab=32, width=8),
            contrast=dict(size=8),
            classify=dict(hidden=8),
        ),
        tasks=dict(vqa=dict(weight=0.5), captioning=dict(length=8)),
        data=dict(train=dict(name="scenes", split="train"), image=dict(size=32)),
        evals=dict(val=dict(task="vqa", every_steps=1)),
        optimizer=dict(learning_rate=1e-3),
    )
    return made | changes


def changed(path, value):
    """The config with one entry replaced; path as in "data.image.size"."""
    made = copy.deepcopy(config())
    *parents, key = path.split(".")
    node = made
    for parent in parents:
        node = node[parent]
    node[key] = value
    return made


def test_everything_is_built_and_named():
    setup = experiment.build(config(), None, source())
    assert setup.asks == {"vqa": "classify", "captioning": "generate"}
    assert setup.weights == {"vqa": 0.5, "captioning": 1.0}
    assert setup.tasks["vqa"].answers == ("dog", "bird", "cat")
    assert setup.model.classify_head.classes == 3
    assert setup.read.size == 32 and setup.read.augment is None
    assert setup.tokenizer.decode(setup.tokenizer.encode("a dog runs")) == "a dog runs"


def test_a_task_may_have_another_name_than_its_kind():
    tasks = dict(a=dict(name="captioning"), b=dict(name="captioning", prompt="a dog"))
    model = config()["model"] | dict(classify=None)
    setup = experiment.build(config(model=model, tasks=tasks, evals={}), None, source())
    assert setup.asks == {"a": "generate", "b": "generate"} and setup.tasks["b"].prompt == "a dog"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("batchsize", 4, "'batchsize' in config; did you mean 'batch_size'"),
        ("model.decodr", {}, "'decodr' in config.model; did you mean 'decoder'"),
        ("model.vision.dept", 18, "'dept' in config.model.vision; did you mean 'depth'"),
        ("model.classify.hiden", 8, "'hiden' in config.model.classify; did you mean 'hidden'"),
        ("tasks.vqa.lenght", 8, "'lenght' in config.tasks.vqa; did you mean 'length'"),
        ("data.imag", {}, "'imag' in config.data; did you mean 'image'"),
        ("data.image.sise", 8, "'sise' in config.data.image; did you mean 'size'"),
        ("data.augment", dict(flp="off"), "'flp' in config.data.augment; did you mean 'flip'"),
        ("data.tokenizer", dict(name="word", min_cont=1), "did you mean 'min_count'"),
        ("evals.val.every_step", 1, "'every_step' in config.evals.val; did you mean 'every_steps'"),
    ],
)
def test_an_unknown_key_is_named_with_a_suggestion(path, value, message):
    with pytest.raises(TypeError, match=message):
        experiment.build(changed(path, value), None, source())


@pytest.mark.parametrize("key", ["model", "tasks", "data", "optimizer"])
def test_a_missing_section_is_named(key):
    with pytest.raises(TypeError, match=f"lacks the required key '{key}'"):
        experiment.build(config(**{key: {}}), None, source())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "tasks",
            dict(vqa={}, captionning={}),
            "captionning.name 'captionning'; did you mean 'captioning'",
        ),
        ("evals.val.task", "retrieval", "evals.val.task is 'retrieval'.*vqa, captioning"),
        ("model.classify.classes", 7, "classes=7, but task vqa has 3 classes: set classes=3"),
        ("model.text.vocab", 6, r"config.model.text.vocab=6 is too small for the tokenizer's \d+"),
        ("model.decoder.vocab", 6, r"config.model.decoder.vocab=6 is too small"),
        ("model.decoder.name", "lstm_merg", "did you mean 'lstm_merge'"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_the_remedy(path, value, message):
    with pytest.raises(ValueError, match=message):
        experiment.build(changed(path, value), None, source())


HEARS = dict(name="vit", patch=4, layers=1, width=8, heads=2, mlp_width=8, image_size=(8, 20))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.audio", HEARS, "config.model.audio and config.data.audio need each other"),
        ("data.audio", dict(seconds=0.2), "config.model.audio and config.data.audio need each"),
        ("tasks", dict(retrieval=dict(between=("audio", "text"))), "needs config.model.audio: add"),
    ],
)
def test_who_listens_has_something_to_listen_with(path, value, message):
    with pytest.raises(ValueError, match=message):
        experiment.build(changed(path, value) | {"evals": {}}, None, source())


def test_without_a_vision_encoder_no_pictures_are_read():
    given = changed("data.audio", dict(seconds=0.2, mel=dict(bins=8)))
    given["data"].pop("image")
    given["model"] = {key: given["model"][key] for key in ("text", "contrast")} | {"audio": HEARS}
    given |= dict(tasks=dict(retrieval=dict(between=("audio", "text"))), evals={})
    read = experiment.build(given, None, source()).read
    assert read.fit == "none" and read.listen.shape == (8, 20)


@pytest.mark.parametrize("count", [0, -1, 1.5, "two"])
def test_texts_per_image_are_counted(count):
    with pytest.raises(ValueError, match=r"tasks\.vqa\.per_image is .* whole number of at least 1"):
        experiment.build(changed("tasks.vqa", dict(per_image=count)), None, source())


def test_several_texts_per_image_are_for_tasks_that_can_tell_them_apart():
    tasks = dict(vqa=dict(per_image=3), captioning={}, retrieval=dict(per_image=1))
    setup = experiment.build(changed("tasks", tasks), None, source())
    assert setup.per_image == {"vqa": 3, "captioning": 1, "retrieval": 1}
    shapes = {name: make(source()[0], None) for name, make in setup.preprocess.items()}
    assert shapes["vqa"]["text"].shape == (3, 20) and shapes["vqa"]["label"].shape == (3,)
    assert shapes["captioning"]["tokens"].ndim == shapes["retrieval"]["text"].ndim == 1
    with pytest.raises(ValueError, match=r"tasks\.retrieval\.per_image=2.*Leave per_image out"):
        experiment.build(changed("tasks.retrieval", dict(per_image=2)), None, source())


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(models.InvalidModel, match="captioning needs config.model.decoder"):
        experiment.build(changed("model.decoder", None), None, source())
    blind = config(model=config()["model"] | dict(text=None, fusion=None))
    with pytest.raises(models.InvalidModel, match="goes through the text encoder"):
        experiment.build(blind, None, source())


def test_answers_may_be_listed_or_counted():
    listed = experiment.build(changed("tasks.vqa", dict(answers=["cat", "dog"])), None, source())
    assert listed.tasks["vqa"].answers == ("cat", "dog")
    counted = experiment.build(changed("tasks.vqa", dict(answers=1)), None, source())
    assert counted.tasks["vqa"].answers == ("dog",) and counted.model.classify_head.classes == 1


def test_labels_are_learned_in_alphabetical_order():
    made = config(tasks=dict(classification={}), evals={})
    setup = experiment.build(made, None, source())
    assert setup.tasks["classification"].labels == ("bird", "cat", "dog")


def test_two_tasks_of_one_classifier_need_equally_many_classes():
    tasks = dict(vqa={}, classification=dict(labels=["a", "b"]))
    with pytest.raises(ValueError, match="classes=3, but task classification has 2 classes"):
        experiment.build(config(tasks=tasks), None, source())


def test_vocabularies_are_stored_and_read_again_without_the_data(tmp_path):
    first = experiment.build(config(), tmp_path, source())
    assert json.loads((tmp_path / "vqa_answers.json").read_text()) == ["dog", "bird", "cat"]
    again = experiment.build(config(), tmp_path)
    assert again.tasks["vqa"].answers == first.tasks["vqa"].answers
    assert again.tokenizer.encode("a dog") == first.tokenizer.encode("a dog")


def test_without_data_or_files_the_missing_one_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json is missing"):
        experiment.build(config(), tmp_path)
    experiment.build(config(), tmp_path, source())
    (tmp_path / "vqa_answers.json").unlink()
    with pytest.raises(FileNotFoundError, match="vqa_answers.json is missing"):
        experiment.build(config(), tmp_path)


def test_a_source_without_answers_cannot_teach_them():
    data = source()
    for example in data:
        example["questions"] = []
    with pytest.raises(DataError, match="animals has no answers to learn config.tasks.vqa.answers"):
        experiment.build(config(), None, data)


def test_a_source_may_not_be_empty():
    empty = dict(name="subset", source=dict(name="scenes", split="val"), stop=0)
    with pytest.raises(DataError, match=r"config\.evals\.val\.data: .* has no examples"):
        experiment.source(empty, "config.evals.val.data")
