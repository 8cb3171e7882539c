"""Conversations of a user's own: three ways to write them are one, mistakes name their place."""

import json

import numpy as np
import pytest

from vlm_jax.data.audio import no_picture
from vlm_jax.data.images import encode_png
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.pipeline import InputReader, Loader
from vlm_jax.data.schema import DataError
from vlm_jax.data.turns import marks, pictures_of
from vlm_jax.tasks.chat import Chat
from vlm_jax.tokenizers import make_tokenizer

TURNS = [
    {"question": "what is on <image>", "answers": ["a cat"]},
    {"question": "is it on <image> too", "answers": ["no", "no", "yes"], "type": "follow_up"},
]
TALK = {"id": "1", "pictures": ["a.png", "b.png"], "questions": TURNS}
SPOKEN = [
    {"role": "user", "content": [{"type": "text", "text": "what is on"}, {"type": "image"}]},
    {"role": "assistant", "content": "a cat"},
    {"role": "user", "content": "is it on <image> too"},
    {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
]
LLAVA = [
    {"from": "human", "value": "<image>\nwhat is it"},
    {"from": "gpt", "value": "a cat"},
]


def folder(tmp_path, *rows, name="data.jsonl"):
    """A data folder with two pictures, one brighter than the other."""
    for number, picture in enumerate(("a.png", "b.png")):
        pixels = np.full((8, 8, 3), 60 + 90 * number, np.uint8)
        (tmp_path / picture).write_bytes(encode_png(pixels))
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


def test_a_line_is_a_conversation_with_pictures_where_they_are_shown(tmp_path):
    (example,) = Jsonl(folder(tmp_path, TALK))
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert example["pictures"] == paths == pictures_of(example) and example["image"] == paths[0]
    assert example["questions"] == TURNS and example["captions"] == []
    assert marks(example) == [1, 1]


def test_messages_and_llavas_conversations_say_the_same(tmp_path):
    first = {"id": "1", "pictures": ["a.png", "b.png"], "messages": SPOKEN}
    second = {"id": "2", "image": "a.png", "conversations": LLAVA}
    one, two = Jsonl(folder(tmp_path, first, second))
    assert [q["question"] for q in one["questions"]] == [q["question"] for q in TURNS]
    assert [q["answers"] for q in one["questions"]] == [["a cat"], ["no"]]
    assert two["questions"] == [{"question": "<image>\nwhat is it", "answers": ["a cat"]}]
    assert marks(one) == [1, 1] and marks(two) == [1]


def test_conversations_may_be_without_pictures_and_in_a_file_of_any_name(tmp_path):
    words = [{"question": "hello", "answers": ["hi"]}]
    folder(tmp_path, {"id": "1", "questions": words}, name="talk.jsonl")
    source = Jsonl(str(tmp_path / "talk.jsonl"))
    assert source.name == "jsonl/talk.jsonl" and source[0]["image"] is no_picture
    assert pictures_of(source[0]) == [] and marks(source[0]) == [0]
    shown = Jsonl(folder(tmp_path, TALK | {"questions": words}))
    assert marks(shown[0]) == [2]  # without a mark the first turn shows them all


def test_turns_may_be_left_to_be_answered(tmp_path):
    open_turn = {"question": "and its colour"}
    path = folder(tmp_path, TALK | {"questions": [*TURNS, open_turn]})
    (example,) = Jsonl(path, answered=False)
    assert [len(q["answers"]) for q in example["questions"]] == [1, 3, 0]
    with pytest.raises(DataError, match=r"questions\[2\] needs both a question and a list of ans"):
        Jsonl(path)
    spoken = {"id": "1", "pictures": ["a.png", "b.png"], "messages": SPOKEN[:3]}
    (example,) = Jsonl(folder(tmp_path, spoken), answered=False)
    assert [q["answers"] for q in example["questions"]] == [["a cat"], []]


BAD = {
    "questions and messages; keep one of them": TALK | {"messages": SPOKEN},
    "question beside a conversation; put it into": TALK | {"question": "x", "answers": ["y"]},
    "questions must be a list of objects": TALK | {"questions": {"question": "x"}},
    "questions is empty": TALK | {"questions": []},
    "questions[0] has no question": TALK | {"questions": [{"answers": ["x"]}]},
    "questions[1] has an unknown key 'answer'; did you mean 'answers'": TALK
    | {"questions": [TURNS[0], {"question": "x", "answer": "y"}]},
    "questions[1].answers must be a list": TALK
    | {"questions": [TURNS[0], {"question": "x", "answers": "y"}]},
    "questions[0].question is empty": TALK | {"questions": [TURNS[0] | {"question": " "}]},
    "messages[0].role is 'system', but it is the user's turn": {
        "id": "x",
        "messages": [{"role": "system", "content": "x"}],
    },
    "messages[1].role is 'user', but it is the assistant's turn": {
        "id": "x",
        "messages": [SPOKEN[0], SPOKEN[0]],
    },
    "messages[0] needs 'role' and 'content', it has text": {"id": "x", "messages": [{"text": "x"}]},
    "messages[1].content[0] must be a text or": {
        "id": "x",
        "messages": [SPOKEN[2], {"role": "assistant", "content": [{"type": "image"}]}],
    },
    "conversations[0].from is 'gpt'": {"id": "x", "conversations": LLAVA[1:]},
    "pictures must be a list of paths": TALK | {"pictures": "a.png"},
    "pictures must be a list of paths, of a line with": {"id": "x", "captions": ["y"]}
    | {"pictures": ["a.png"]},
    "pictures[1] must be the path of a file": TALK | {"pictures": ["a.png", 7]},
    "pictures[1] '/b.png' is absolute": TALK | {"pictures": ["a.png", "/b.png"]},
    "image beside pictures; put it into their list": TALK | {"image": "a.png"},
    "there is no image file": TALK | {"pictures": ["a.png", "c.png"]},
    "have 2 times <image>, but there are 1 pictures": TALK | {"pictures": ["a.png"]},
    "unknown key 'mesages'; did you mean 'messages'": {"id": "x", "mesages": SPOKEN},
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_name_file_line_and_key(message, tmp_path):
    good = TALK | {"id": "0"}
    with pytest.raises(DataError) as caught:
        Jsonl(folder(tmp_path, good, BAD[message]))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'data.jsonl'}, line 2: ")


def test_they_are_learned_like_any_others_and_what_does_not_fit_the_model_is_said(tmp_path):
    words = {"id": "2", "questions": [{"question": "what is it", "answers": ["a cat"]}]}
    source = Jsonl(folder(tmp_path, TALK, words))
    tokenizer = make_tokenizer({"name": "word"}, lambda: ["what is on it too a cat no"])
    task = Chat(tokenizer, {"picture": dict(name="run", token="99", count=2)}, 32, 5)
    read = InputReader(size=8, pictures=2)
    load = Loader(source, read, {"chat": task.preprocess}, on_error="raise").load
    both, alone = load(0, None), load(1, None)
    assert both["image"]["tiles"].tolist() == [True, True]
    assert [int(pixels.max()) for pixels in both["image"]["pixels"]] == [60, 150]
    assert (both["chat"]["tokens"] == 99).sum() == 4 and not (alone["chat"]["tokens"] == 99).any()
    assert alone["image"]["tiles"].tolist() == [False, False]
    learned = both["chat"]["targets"][both["chat"]["targets_mask"]].tolist()
    assert tokenizer.decode(learned[:2]) == "a cat" and tokenizer.decode(learned[3:4]) == "no"
    one = Loader(source, InputReader(size=8), {"chat": task.preprocess}, on_error="raise")
    with pytest.raises(DataError, match=r"example 1: 2 pictures, but this model reads one"):
        one.load(0, None)
    with pytest.raises(DataError, match="example 2: this example is words or a sound without a"):
        one.load(1, None)
