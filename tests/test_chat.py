"""A conversation in the cache equals reading all of it anew at every turn; and its limits."""

import functools
import io
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.vqa import scene_chat
from tests import tiny
from vlm_jax import api, experiment, modes, sharding, train
from vlm_jax.chat import Pace
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


@pytest.mark.parametrize("options", [{}, dict(sample=True, temperature=5.0)])
def test_pieces_are_the_answer_and_compile_nothing(options):
    whole, pieces = model().chat(), model().chat()
    count = 0
    for group, (text, pictures) in enumerate(SAID, start=1):
        answer = whole.say(text, pictures, **options)
        before = (len(whole.programs), whole._compiled.write._cache_size())
        found = list(pieces.stream(text, pictures, group=group, **options))
        assert "".join(found) == answer and all(found)
        assert (len(whole.programs), whole._compiled.write._cache_size()) == before
        count = max(count, len(found))
    assert pieces.turns == whole.turns and pieces.tokens == whole.tokens
    assert count > 1


def test_the_next_tokens_are_asked_for_before_the_last_ones_are_looked_at():
    chat, asked = model().chat(), []
    write = chat._compiled.write
    noted = lambda variables, until, **given: (
        asked.append(int(until)) or write(variables, until, **given)
    )
    chat._compiled = chat._compiled._replace(write=noted)
    pieces = chat.stream(*SAID[0], group=2)
    assert not asked
    next(pieces)
    assert asked == [3]


def expect_read_anew(chat, end, pictures):
    """The tokens from `end` on are those that follow when everything before is read anew."""
    expected = read_anew(chat, pictures)
    written = chat.tokens[end:]
    written = written[: chat.task.answer_length]
    assert written == expected[end - 1 :][: len(written)].tolist()


def test_what_was_written_when_an_answer_is_stopped_is_part_of_the_conversation():
    chat, whole = model().chat(), model().chat()
    for other in (chat, whole):
        other.say(*SAID[0])
    before, full = len(chat.tokens), whole.say(*SAID[1])
    pieces = chat.stream(*SAID[1], group=1)
    piece = next(pieces)
    pieces.close()
    assert chat.turns[-1].answer == piece != full and full.startswith(piece)
    assert chat.tokens[-1] in chat.run.experiment.tokenizer.ends
    assert chat.tokens[before:-2] == whole.tokens[before:][: len(chat.tokens) - before - 2]
    said = chat.task.turns.said(chat.run.experiment.tokenizer, SAID[2][0], [None] * 3, first=False)
    end = len(chat.tokens) + len(said)
    chat.say(*SAID[2])
    expect_read_anew(chat, end, [*SAID[0][1], *SAID[2][1]])
    chat.undo()
    chat.undo()
    assert chat.say(*SAID[1]) == full


def test_another_turn_ends_the_answer_that_is_being_written():
    chat = model().chat()
    chat.say(*SAID[0])
    pieces = chat.stream(*SAID[1], group=1)
    piece = next(pieces)
    chat.say(*SAID[3])
    assert [turn.text for turn in chat.turns] == [SAID[0][0], SAID[1][0], SAID[3][0]]
    assert chat.turns[1].answer == piece and not list(pieces)


@pytest.mark.parametrize("at", [1, 2])
def test_ctrl_c_while_the_device_works_leaves_a_conversation_that_goes_on(at):
    chat, other, calls = model().chat(), model().chat(), []
    for one in (chat, other):
        one.say(*SAID[0])
    compiled = chat._compiled

    def interrupted(*given, **named):
        calls.append(given)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return compiled.write(*given, **named)

    chat._compiled = compiled._replace(write=interrupted)
    found = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(chat.stream(*SAID[1], group=1))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(chat.turns) == at  # before the first token is known there is no turn
    if at == 2:
        chat.undo()
    assert chat.turns == other.turns and chat.tokens == other.tokens
    assert chat.say(*SAID[1]) == other.say(*SAID[1])


def test_an_answer_knows_how_fast_it_was():
    chat = model().chat()
    assert chat.pace is None
    chat.say(*SAID[0])
    assert 0 < chat.pace.first <= chat.pace.seconds
    assert 0 < chat.pace.tokens <= chat.task.answer_length
    assert Pace(5, 1.0, 3.0).rate == 2.0 and Pace(1, 1.0, 1.0).rate == 0


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


def test_turns_held_elsewhere_are_read_with_the_next_one_and_can_be_taken_back():
    chat, other = model().chat(), model().chat()
    other.say(*SAID[0])
    chat.recall(SAID[0][0], other.turns[0].answer, SAID[0][1])
    assert chat.turns == other.turns and chat.tokens == other.tokens
    chat.recall("how large is <image>", "large", [PICTURES[1]])
    other.recall("how large is <image>", "large", [PICTURES[1]])
    assert chat.say(*SAID[2]) == other.say(*SAID[2])
    assert chat.tokens == other.tokens and [turn.pictures for turn in chat.turns] == [1, 1, 3]
    for _ in range(2):
        chat.undo()  # what was read with the turn after it is to be read again
    assert chat.turns == other.turns[:1]
    chat.undo()
    other.reset()
    assert chat.say(*SAID[0]) == other.say(*SAID[0])
    short = model().chat(context=30)
    with pytest.raises(ValueError, match="context of 30"):
        short.recall("it " * 28, "large")
    assert short.turns == []


def written_folder(tmp_path, *rows):
    for number, picture in enumerate(PICTURES):
        (tmp_path / f"{number}.png").write_bytes(encode_png(picture))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


def test_conversations_of_a_file_are_answered_where_they_have_no_answers(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(modes.api, "load", lambda folder: model())
    turns = [{"question": text} for text, _ in SAID[:3]]
    turns[0] = {"question": SAID[0][0] + " <image>", "answers": ["a blue star", "red"]}
    shown = {"pictures": ["0.png", "1.png", "0.png"]}
    turns[2] = {"question": "how large is <image> what shape is it <image>"}
    rows = [
        {"id": "a", "questions": turns} | shown,
        {"id": "b", "image": "1.png", "question": "what is left of the red circle"},
        {"id": "c", "questions": [{"question": "it " * 1200}]},
    ]
    data, out = written_folder(tmp_path, *rows), str(tmp_path / "said.jsonl")
    assert modes.predict(None, "W", {"data": data}) == 1  # "c" is too long
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["n"], found["answered"], found["errors"]) == (3, 3, 1)
    first, second, third = found["conversations"]
    chat = model().chat()
    chat.recall(turns[0]["question"], "a blue star", [PICTURES[0]])
    chat.say(turns[1]["question"])
    chat.say(turns[2]["question"], [PICTURES[1], PICTURES[0]])
    assert [turn["answer"] for turn in first["turns"]] == [turn.answer for turn in chat.turns]
    assert [turn.get("given", False) for turn in first["turns"]] == [True, False, False]
    other = model().chat().say(rows[1]["question"], [PICTURES[1]])
    assert second["turns"] == [{"question": rows[1]["question"], "answer": other}]
    assert third["turns"] == [] and "does not fit the context of 1024" in third["error"]
    assert modes.predict(None, "W", {"data": data, "out": out}) == 1
    with open(out, encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == [first, second, third]
    assert "conversations" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_where_everything_is_answered_there_is_nothing_to_say(tmp_path, monkeypatch):
    monkeypatch.setattr(modes.api, "load", lambda folder: model())
    row = {"id": "a", "questions": [{"question": "hello", "answers": ["hi"]}]}
    data, out = written_folder(tmp_path, row), tmp_path / "out.jsonl"
    out.write_text("kept")
    for told in ({}, {"out": str(out)}):
        with pytest.raises(ValueError, match="every turn has answers.*--mode=eval --data"):
            modes.predict(None, "W", {"data": data} | told)
    assert out.read_text() == "kept" and not list(tmp_path.glob("*.part"))


def test_ones_own_conversations_are_trained_on_and_evaluated(tmp_path):
    ask = lambda text, answer: {"question": text, "answers": [answer]}
    said = [ask("what is on <image>", "a ring"), ask("and on <image>", "a star"), ask("so", "yes")]
    rows = [{"id": str(i), "pictures": ["0.png", "1.png"], "questions": said} for i in range(8)]
    rows.append({"id": "8", "questions": [ask("hello", "hi"), ask("who are you", "me")]})
    data = tmp_path / "own"
    for folder in (data, data / "val"):
        folder.mkdir()
        written_folder(folder, *rows)
    config = scene_chat.get_config(f"smoke,data={data}")
    metrics = train.train(config.to_dict(), tmp_path / "run")
    assert metrics["chat/n"] == 8 * 3 + 2 and metrics.get("chat/skipped", 0) == 0
    assert "chat/turns/accuracy" in metrics
    chat = api.load(tmp_path / "run").chat()
    assert isinstance(chat.say("who are you"), str)


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
