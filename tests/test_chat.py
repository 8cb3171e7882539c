"""A conversation in the cache equals reading all of it anew at every turn; and its limits."""

import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.vqa import scene_chat
from tests import tiny
from vlm_jax import api, experiment, modes, sharding
from vlm_jax.data.images import encode_png
from vlm_jax.data.pipeline import Loader, stack
from vlm_jax.data.scene_dialogues import SceneDialogues
from vlm_jax.data.schema import DataError
from vlm_jax.data.text import pad
from vlm_jax.evaluate import Run
from vlm_jax.step import initial_state
from vlm_jax.types import Features

PICTURES = [SceneDialogues("test", size=32, length=2)[i]["image"]() for i in range(2)]
SAID = [
    ("what is left of the red circle", [PICTURES[0]]),
    ("and what is above it", []),
    ("how large is <image> what shape is it <image>", [PICTURES[1], PICTURES[0], PICTURES[1]]),
    ("and what is below the large ring", []),
]
PLACES = 16
"""Tokens of a picture of 32 pixels."""


@functools.cache
def model():
    """A run of the smoke config whose parameters are all noise."""
    config = scene_chat.get_config("smoke").to_dict()
    config["data"]["image"]["size"] = 32
    config["tasks"]["region_labels"]["grid"] = 4
    config["tasks"]["chat"]["format"]["picture"]["count"] = PLACES
    config["model"]["decoder"] |= dict(tied=False)  # else each token would be like the one before
    train = experiment.source(config["data"]["train"], "train")
    setup = experiment.build(config, None, train)
    row = Loader(train, setup.read, setup.preprocess)(0)
    shapes = jax.eval_shape(lambda: initial_state(setup, stack([row]), 0))["params"]
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape) / 2, x.dtype)
    variables = {"params": jax.tree.map(draw, shapes)}
    return api.Model(Run(setup, variables, sharding.make_mesh(devices=jax.devices()[:1]), 1))


def read_anew(chat, pictures):
    """The most probable allowed token after each of the conversation's, without any cache."""
    run, length = chat.run, 160
    model, banned = run.experiment.model, run.search(1).banned

    @jax.jit
    def best(variables, pixels, tokens, mask):
        ask = functools.partial(model.apply, variables)
        seen = ask(pixels, method="encode_image")
        flat = lambda x: x.reshape(1, -1, *x.shape[2:])
        memory = Features(flat(seen.tokens), flat(seen.mask))
        logits, _ = ask(tokens, memory, mask=mask, method="decode")
        return jnp.argmax(logits[0].at[:, jnp.array(banned)].set(-jnp.inf), axis=1)

    tokens, mask = pad(chat.tokens, length)
    return best(run.variables, jnp.stack(pictures), tokens[None], mask[None])


@pytest.fixture(autouse=True)
def few_slots(monkeypatch):
    monkeypatch.setattr("vlm_jax.chat.SLOTS", 96)


def test_every_turn_is_answered_as_if_all_had_been_read_anew():
    chat, starts = model().chat(), []
    words, most = chat.run.experiment.tokenizer, chat.task.answer_length
    for text, pictures in SAID:
        grids, before = [None] * len(pictures), len(chat.tokens)
        said = chat.task.turns.said(words, text, grids, first=not before)
        chat.say(text, pictures)
        starts.append(before + len(said))
        assert chat.tokens[before : starts[-1]] == said
    expected = read_anew(chat, [picture for _, pictures in SAID for picture in pictures])
    for start, end in zip(starts, [*starts[1:], len(chat.tokens)], strict=True):
        written = chat.tokens[start:end][:most]
        written = written[: written.index(words.eos) + 1] if words.eos in written else written
        assert written == expected[start - 1 :][: len(written)].tolist()
    assert len({turn.answer for turn in chat.turns}) > 2
    assert [turn.pictures for turn in chat.turns] == [1, 0, 3, 0]
    slots = {line.split()[-2] for line in chat.programs}
    assert slots == {"96", "192"}  # it grew on the way


def test_a_long_conversation_needs_a_handful_of_programs():
    chat = model().chat()
    chat.say(*SAID[0])
    before = len(chat.programs)
    for number in range(9):
        chat.say(" ".join(["it"] * (1 + number % 5)))
    assert len(chat.programs) - before <= 2


def test_turns_are_taken_back_and_forgotten():
    chat, other = model().chat(), model().chat()
    for text, pictures in SAID[:3]:
        chat.say(text, pictures)
    chat.undo()
    chat.undo()
    other.say(*SAID[0])
    assert chat.turns == other.turns and chat.tokens == other.tokens
    assert chat.say(*SAID[1]) == other.say(*SAID[1])
    assert chat.tokens == other.tokens
    chat.reset()
    assert chat.turns == [] and chat.say(*SAID[0]) == other.turns[0].answer
    with pytest.raises(ValueError, match="no turn to take back"):
        model().chat().undo()


def test_drawn_answers_depend_on_the_seed_and_the_conversation_alone():
    draw = dict(sample=True, temperature=5.0)
    chats = [model().chat() for _ in range(3)]
    first = [
        chat.say(SAID[1][0], seed=seed, **draw) for chat, seed in zip(chats, (1, 1, 2), strict=True)
    ]
    assert first[0] == first[1] != first[2]


def test_what_does_not_fit_is_said_and_changes_nothing():
    chat = model().chat(context=40)
    chat.say(*SAID[0])
    before = (list(chat.tokens), list(chat.turns))
    with pytest.raises(
        ValueError, match=r"conversation has \d+ tokens.* context of 40; begin anew"
    ):
        chat.say(*SAID[2])
    with pytest.raises(DataError, match="has 2 times <image>, but 1 pictures are given"):
        chat.say("<image> and <image>", [PICTURES[0]])
    assert (chat.tokens, chat.turns) == before
    assert chat.say("how large is it")


def test_a_picture_with_another_number_of_tokens_than_places_is_refused():
    chat = model().chat()
    picture = dict(name="run", token="128", count=15)
    object.__setattr__(chat.task.turns, "picture", picture)
    try:
        with pytest.raises(ValueError, match="1 pictures have 16 tokens, but 15 places"):
            chat.say(*SAID[0])
    finally:
        object.__setattr__(chat.task.turns, "picture", picture | dict(count=PLACES))


def test_models_that_cannot_chat_say_so():
    setup = experiment.build(
        tiny.captioner(), None, experiment.source(tiny.captioner()["data"]["train"], "")
    )
    other = api.Model(Run(setup, {}, sharding.make_mesh(devices=jax.devices()[:1]), 1))
    with pytest.raises(
        ValueError, match="cannot hold a conversation: it was trained for captioning"
    ):
        other.chat()
    other.run.experiment.tasks["chat"] = model().run.experiment.tasks["chat"]
    with pytest.raises(ValueError, match='memory="insert"'):
        other.chat()


def test_the_mode_talks_through_a_pipe(tmp_path, monkeypatch, capsys):
    path = tmp_path / "scene.png"
    path.write_bytes(encode_png(PICTURES[0]))
    monkeypatch.setattr(modes.api, "load", lambda folder: model())
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SAID[0][0]}\n{SAID[1][0]}\n/quit\n"))
    assert modes.chat(None, "W", {"image": str(path)}) == 0
    expected = model().chat()
    expected.say(*SAID[0])
    expected.say(*SAID[1])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["answer"] for row in rows] == [turn.answer for turn in expected.turns]
    assert rows[0]["images"] == [str(path)] and rows[1]["images"] == []
