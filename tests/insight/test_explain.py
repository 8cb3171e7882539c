"""A whole model explained: words, maps, leave-one-out, the folder, the report and the mode."""

import json
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests import tiny
from vlm_jax import api, experiment, models, modes, report, sharding
from vlm_jax.data.images import encode_png
from vlm_jax.data.scenes import Scenes
from vlm_jax.evaluate import Run
from vlm_jax.insight import Explainer, explain, page, pointing, subject
from vlm_jax.insight.explain import ROWS
from vlm_jax.insight.subject import NothingSeen
from vlm_jax.tasks import TASKS
from vlm_jax.tokenizers import make_tokenizer

SCENES = Scenes("train", 32, 64)
PICTURE = SCENES[0]["image"]()
QUESTION, TEXT = "what colour is the large circle", "a red circle and a small blue square"


@lru_cache
def model():
    """The tiny model of three tasks with random parameters."""
    setup = experiment.build(tiny.config(), None, SCENES)
    example = SCENES[0]
    batch = {name: task.preprocess(example, None) for name, task in setup.tasks.items()}
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], {"image": PICTURE} | batch)
    shapes = jax.eval_shape(lambda: setup.model.init(jax.random.key(0), batch, setup.asks))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(s.dtype), shapes)
    return api.Model(Run(setup, variables, sharding.make_mesh(), 8))


@lru_cache
def explainer():
    return Explainer(model())


def test_every_word_of_a_caption_has_a_map():
    found = explainer().explain(PICTURE, text=f"{TEXT} and a ring", method="grad_cam")
    assert found.words == tuple(f"{TEXT} and a ring".split()) and len(found.words) > ROWS
    assert found.heat.shape == (len(found.words), 32, 32) and found.heat.max() == 1
    assert len({one.tobytes() for one in found.heat}) > len(found.words) / 2
    np.testing.assert_array_equal(found.picture, PICTURE)


def test_scores_are_log_probabilities_of_words_in_their_place():
    found = explainer().explain(PICTURE, text=TEXT, method="attention")
    run = model().run
    inputs = run.experiment.tasks["captioning"].preprocess({"captions": [TEXT]}, None)
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], inputs)
    outputs = run.experiment.model.apply(
        run.variables, {"image": jnp.asarray(PICTURE)[None], "x": batch}, {"x": "generate"}
    )
    chances = np.asarray(jax.nn.log_softmax(outputs["x"]["logits"]))[0]
    places = np.flatnonzero(inputs["targets_mask"])[:-1]
    expected = chances[places, inputs["targets"][places]]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


def test_an_answer_is_what_the_model_says_unless_it_is_given():
    found = explain(model(), PICTURE, question=QUESTION, method="attention")
    assert found.words == (model().answer(PICTURE, QUESTION),) and found.question == QUESTION
    given = explainer().explain(PICTURE, question=QUESTION, text="red", method="attention")
    assert given.words == ("red",)


def test_pieces_of_a_word_are_explained_together():
    spelled = {1: "un", 2: "like", 3: "ly", 4: " red", 5: " cir", 6: "cle"}
    tokenizer = SimpleNamespace(eos=9, decode=lambda ids: "".join(spelled[i] for i in ids))
    targets = np.array([[7, 1, 2, 3, 4, 5, 6, 9, 0]])
    inputs = {"targets": targets, "targets_mask": (targets > 0) & (targets != 7)}
    setup = SimpleNamespace(tokenizer=tokenizer)
    assert subject.words(setup, inputs, 0) == [  # pyright: ignore
        ("unlikely", (1, 2, 3)), ("red", (4,)), ("circle", (5, 6))
    ]  # fmt: skip


def test_a_word_left_out_is_missed_by_what_the_score_falls():
    found = explainer().without_words(PICTURE, question=QUESTION, text="red")
    assert [one.word for one in found] == QUESTION.split()
    texts = [QUESTION, QUESTION.replace("large ", "")]
    rows = [{"question": text, "text": "red"} for text in texts]
    asked = subject.subject_of(model().run.experiment, "vqa", np.stack([PICTURE] * 2), rows)
    whole, without = explainer().scores(asked)
    assert found[4].drop == pytest.approx(whole - without, rel=1e-4) and abs(found[4].drop) > 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(text=TEXT, method="grad_cm"), "method='grad_cm': choose one of attention"),
        (dict(question=QUESTION, text="a whale"), "'a whale' is not among the answers"),
    ],
)
def test_mistakes_have_their_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        explainer().explain(PICTURE, **options)


@pytest.mark.parametrize("match_class", [0, 1])
def test_the_score_of_a_match_is_that_of_its_own_class(match_class):
    parts = {part: tiny.config()["model"][part] for part in ("vision", "text", "fusion")}
    network = models.build(parts | dict(reconstruct=dict(vocab=128)))
    words = make_tokenizer({"name": "wordpiece", "size": 128}, lambda: [TEXT])
    task = TASKS["masked_pretraining"](words, length=16, match_class=match_class)
    setup: Any = SimpleNamespace(model=network, tasks={"match": task}, tokenizer=words)
    asked = subject.subject_of(setup, "match", PICTURE[None], [{"text": TEXT}])
    batch, asks = {"image": asked.image, "x": asked.inputs}, {"x": "reconstruct"}
    variables = network.init(jax.random.key(0), batch, asks)
    first, second = network.apply(variables, batch, asks)["x"]["match_logits"][0]
    expected = (second - first) if match_class else (first - second)
    found = subject.scores(network, variables, asked)
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-5) and abs(expected) > 1e-3


def test_a_captioner_reads_no_words():
    with pytest.raises(ValueError, match="give a question"):
        explainer().without_words(PICTURE, text=TEXT)


def test_a_method_with_nothing_to_say_is_left_out_unless_asked_for(tmp_path, monkeypatch):
    def shares(self, method, subject):
        raise NothingSeen(f"{method} has nothing")

    real = Explainer.shares
    monkeypatch.setattr(page, "METHODS", ("rollout", "attention"))
    monkeypatch.setattr(
        Explainer, "shares", lambda s, m, x: (shares if m == "rollout" else real)(s, m, x)
    )
    written = page.explain_to(tmp_path, model(), PICTURE, text="red")
    assert [one["method"] for one in written["methods"]] == ["attention"]
    with pytest.raises(NothingSeen, match="rollout has nothing"):
        page.explain_to(tmp_path, model(), PICTURE, text="red", methods=["rollout"])
    monkeypatch.setattr(page, "METHODS", ("rollout",))
    with pytest.raises(NothingSeen, match="by any method: the model does not look at it"):
        page.explain_to(tmp_path / "blind", model(), PICTURE, text="red")
    assert not (tmp_path / "blind").exists()


def test_only_tasks_of_pictures_are_asked_about_a_picture():
    words = make_tokenizer({"name": "wordpiece", "size": 128}, lambda: [TEXT])
    sounds = TASKS["retrieval"](words, between=("audio", "text"))
    pictures = TASKS["retrieval"](words)

    def asked(**tasks):
        setup = SimpleNamespace(tasks=tasks)
        found: Any = SimpleNamespace(run=SimpleNamespace(experiment=setup, variables={}))
        return Explainer(found)._asked(PICTURE, None, TEXT)

    assert asked(sounds=sounds, pictures=pictures) == ("pictures", TEXT)
    with pytest.raises(ValueError, match="one that compares it with pictures"):
        asked(sounds=sounds)


def test_the_mode_writes_pictures_a_page_and_the_report(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config(evals={})))
    (tmp_path / "scene.png").write_bytes(encode_png(PICTURE))
    monkeypatch.setattr(api, "load", lambda folder: model())
    options = dict.fromkeys(("image", "question", "text", "method", "out", "pretrained"))
    options |= dict(image=str(tmp_path / "scene.png"), question=QUESTION, text="red")
    options |= dict(method="attention,grad_cam")
    assert modes.MODES["explain"](None, str(tmp_path), options) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    folder = tmp_path / "explanations" / "scene"
    assert printed["page"] == str(folder / "index.html") and printed["text"] == "red"
    assert len(printed["left_out"]) == len(QUESTION.split())
    for method in printed["methods"]:
        (word,) = method["words"]
        assert Image.open(folder / word["file"]).size == (264, 264)
    for text in ((folder / "index.html").read_text(), (tmp_path / report.FILE).read_text()):
        assert text.count("data:image/jpeg") == 3 and "grad cam" in text and QUESTION in text
    with pytest.raises(ValueError, match="--image"):
        modes.MODES["explain"](None, str(tmp_path), options | {"image": None})


def test_the_pointing_game_of_a_model_that_knows_nothing():
    """Random parameters hit about as often as a random point, and no more than objects do."""
    source = Scenes("test", 32, 6, (2, 2))
    cases = []
    for example in source:
        target = example["scene"]["objects"][0]
        texts = {"question": f"what colour is the {target['shape']}", "text": target["colour"]}
        box = example["regions"][0]["box"]
        cases.append(pointing.Case(example["image"], texts, None, box, [box, box]))
    table = dict(pointing.play(model(), "vqa", cases, ["grad_cam"]))
    assert list(table)[-2:] == ["grad_cam", "grad_cam, randomised"]
    assert all(0 <= found.low <= found.hits <= found.high <= 1 for found in table.values())
    assert table["centre of a random object"].hits == 0.5
    with pytest.raises(ValueError, match="nothing to point at"):
        dict(pointing.play(model(), "vqa", [], ["grad_cam"]))
