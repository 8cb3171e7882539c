import json
import logging

import pytest

from vlm_jax.data.audio import AudioFile
from vlm_jax.data.jsonl import Jsonl
from vlm_jax.data.schema import DataError
from vlm_jax.data.video_images import VideoFile

GOOD = {"id": "1", "image": "a.png", "captions": ["a cat"]}


def folder(tmp_path, *lines):
    """A data folder: dicts become JSON, bytes are written as they are."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"only looked for, never opened")
    encoded = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
    (tmp_path / "data.jsonl").write_bytes(b"\n".join(encoded))
    return str(tmp_path)


def test_lines_become_examples_in_order(tmp_path):
    asked = {"question": "how many?", "answers": ["1", "one"], "type": "number"}
    second = {"id": "ü", "image": "b.png", "captions": [], "label": "dog", "camera": "X1"} | asked
    source = Jsonl(folder(tmp_path, GOOD, second))
    assert len(source) == 2 and source.name == f"jsonl/{tmp_path.name}"
    image = str(tmp_path / "a.png")
    assert source[0] == {"id": "1", "image": image, "captions": ["a cat"], "questions": []}
    assert source[1]["id"] == "ü" and source[1]["label"] == "dog"
    assert source[1]["questions"] == [asked]
    assert [example["id"] for example in source] == ["1", "ü"]


def test_a_line_may_name_a_video(tmp_path):
    (tmp_path / "c.mp4").write_bytes(b"only looked for, never opened")
    line = {"id": "1", "video": "c.mp4", "captions": ["a cat"]}
    assert Jsonl(folder(tmp_path, line))[0]["image"] == VideoFile(str(tmp_path / "c.mp4"))


def test_a_line_may_name_a_sound_beside_a_picture_or_alone(tmp_path):
    (tmp_path / "c.wav").write_bytes(b"only looked for, never opened")
    alone = {"id": "2", "audio": "c.wav", "captions": ["a bark"]}
    source = Jsonl(folder(tmp_path, GOOD | {"audio": "c.wav"}, alone))
    sound = AudioFile(str(tmp_path / "c.wav"))
    assert source[0]["audio"] == source[1]["audio"] == sound
    assert source[0]["image"] == str(tmp_path / "a.png")
    with pytest.raises(DataError, match="without a picture"):
        source[1]["image"]()


def test_blank_lines_carriage_returns_and_a_byte_order_mark_do_no_harm(tmp_path):
    lines = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", b"  \r", b"", GOOD | {"id": "2"}
    source = Jsonl(folder(tmp_path, *lines))
    assert [source[i]["id"] for i in (1, 0)] == ["2", "1"]
    with pytest.raises(DataError, match="line 5"):  # blank lines count as lines
        Jsonl(folder(tmp_path, *lines, b"{"))


BAD = {
    "not JSON": b'{"id": "1", ',
    "not UTF-8 (byte 9": b'{"id": "\xe9"}',
    "half of a surrogate pair": rb'{"id": "\ud800", "image": "a.png", "captions": ["x"]}',
    "one JSON object": b"[1]",
    "captions missing": {"id": "x", "image": "a.png"},
    "id, image missing": {"captions": ["a cat"]},
    "id must be a text": GOOD | {"id": 7},
    "id is empty": GOOD | {"id": " "},
    "captions must be a list": GOOD | {"id": "x", "captions": "a cat"},
    "captions[1] is empty": GOOD | {"id": "x", "captions": ["a", " "]},
    "captions[0] must be a text": GOOD | {"id": "x", "captions": [None]},
    "no caption, question or label": GOOD | {"id": "x", "captions": []},
    "question without answers": GOOD | {"id": "x", "question": "how many?"},
    "answers is empty": GOOD | {"id": "x", "question": "how many?", "answers": []},
    "answers must be a list": GOOD | {"id": "x", "question": "how many?", "answers": "1"},
    "answers without a question": GOOD | {"id": "x", "answers": ["1"]},
    "unknown key 'answer'; did you mean 'answers'": GOOD
    | {"id": "x", "question": "q", "answer": ["1"]},
    "no video file": {"id": "x", "video": "c.mp4", "captions": ["a"]},
    "no audio file": GOOD | {"id": "x", "audio": "c.wav"},
    "audio 'c/../../c.wav' leaves": GOOD | {"id": "x", "audio": "c/../../c.wav"},
    "video '/c.mp4' is absolute": {"id": "x", "video": "/c.mp4", "captions": ["a"]},
    "an image and a video": GOOD | {"id": "x", "video": "c.mp4"},
    "image must be the path": GOOD | {"id": "x", "image": 3},
    "is absolute": GOOD | {"id": "x", "image": "/etc/hosts"},
    "'C:/a.png' is absolute": GOOD | {"id": "x", "image": "C:/a.png"},
    "leaves the folder": GOOD | {"id": "x", "image": "b/../../a.png"},
    "'..\\\\a.png' leaves the folder": GOOD | {"id": "x", "image": "..\\a.png"},
    "there is no image file": GOOD | {"id": "x", "image": "c.png"},
    "there is no image file ": GOOD | {"id": "x", "image": "c" * 300},  # too long for any file
    "not JSON: Exceeds the limit": b'{"id": "x", "score": ' + b"1" * 5000 + b"}",
    "id '1' is taken by line 1": GOOD,
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_line_is_named_or_skipped_and_counted(message, tmp_path, caplog):
    path = folder(tmp_path, GOOD, BAD[message], GOOD | {"id": "3"})
    with pytest.raises(DataError) as caught:
        Jsonl(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'data.jsonl'}, line 2: ")
    with caplog.at_level(logging.WARNING):
        source = Jsonl(path, on_error="skip")
    assert [example["id"] for example in source] == ["1", "3"]
    assert source.skipped == [str(caught.value)] and source.skipped_count == 1
    assert "skipped 1 bad lines, kept 2" in caplog.text


def test_the_id_of_a_skipped_line_is_free(tmp_path):
    lines = [GOOD | {"image": "none.png"}, GOOD, GOOD | {"captions": ["taken"]}]
    source = Jsonl(folder(tmp_path, *lines), on_error="skip")
    assert [example["captions"] for example in source] == [["a cat"]]
    assert source.skipped_count == 2 and "is taken by line 2" in source.skipped[1]


def test_many_bad_lines_are_all_counted_and_the_first_described(tmp_path):
    source = Jsonl(folder(tmp_path, *[b"{"] * 25, GOOD), on_error="skip")
    assert (len(source), source.skipped_count, len(source.skipped)) == (1, 25, 10)
    assert "line 10:" in source.skipped[-1]


def test_nothing_is_skipped_without_a_fault(tmp_path):
    source = Jsonl(folder(tmp_path, GOOD), on_error="skip")
    assert source.skipped == [] and source.skipped_count == 0


@pytest.mark.parametrize("lines", [(), (b"",), (b"{", b"}")])
def test_a_file_without_a_usable_line_is_an_error(lines, tmp_path):
    with pytest.raises(DataError, match="holds no usable example"):
        Jsonl(folder(tmp_path, *lines), on_error="skip")


def test_a_missing_file_a_wrong_policy_and_a_wrong_position(tmp_path):
    with pytest.raises(DataError, match="data.jsonl does not exist"):
        Jsonl(str(tmp_path / "nowhere"))
    source = Jsonl(folder(tmp_path, GOOD))
    for position in (-1, 1):
        with pytest.raises(IndexError, match=f"position {position} is outside"):
            source[position]
    with pytest.raises(ValueError, match="on_error"):
        Jsonl(str(tmp_path), on_error="ignore")


def test_a_link_inside_the_folder_may_lead_to_images_elsewhere(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "z.png").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "store")
    source = Jsonl(folder(tmp_path / "data", GOOD | {"image": "images/z.png"}))
    assert source[0]["image"].endswith("images/z.png")
