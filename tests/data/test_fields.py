import pytest

from vlm_jax.data import fields
from vlm_jax.data.schema import DataError


def read(table, record, folder="", identifier="0"):
    """The example of a record, a dict of columns."""
    where = "shard, row 0"
    parsed = fields.parse(table)
    return fields.example(parsed, record.__getitem__, record, where, identifier, folder)


RECORD = {
    "jpg": b"picture",
    "txt": b" a cat\n",
    "json": b'{"caption": "a dog", "list": [{"raw": "x"}, {"raw": "y"}], "n": 3, "none": null}',
    "sentences": [{"raw": "one", "id": 1}, {"raw": "two", "id": 2}],
    "nested": [["a", ["b"]], [], "c", None, " "],
    "struct": {"bytes": b"inner", "path": "x.jpg"},
    "number": 7,
}


@pytest.mark.parametrize(
    ("place", "captions"),
    [
        ("txt", ["a cat"]),
        ("caption;txt", ["a cat"]),
        ("caption; json:caption", ["a dog"]),
        ("json:list.raw", ["x", "y"]),
        ("json:list.1.raw", ["y"]),
        ("sentences:raw", ["one", "two"]),
        ("nested", ["a", "b", "c"]),
        ("number", ["7"]),
        ("json:n", ["3"]),
    ],
)
def test_captions_from_texts_lists_structs_and_json(place, captions):
    found = read({"image": "png;jpg", "captions": place}, RECORD)
    assert found == {"id": "0", "image": b"picture", "captions": captions, "questions": []}


def test_all_parts():
    record = RECORD | {"q": "how many?", "a": ["2", "two"], "t": "count"}
    table = {"image": "struct", "id": "number", "label": "txt"}
    table |= {"questions": "q", "answers": "a", "types": "t"}
    assert read(table, record) == {
        "id": "7",
        "image": b"inner",
        "captions": [],
        "label": "a cat",
        "questions": [{"question": "how many?", "answers": ["2", "two"], "type": "count"}],
    }


def test_several_questions_with_the_answers_of_each():
    record = {"i": b"x", "q": ["a?", "b?"], "a": [["1", "2"], "3"]}
    found = read({"image": "i", "questions": "q", "answers": "a"}, record)
    asked = [(question["question"], question["answers"]) for question in found["questions"]]
    assert asked == [("a?", ["1", "2"]), ("b?", ["3"])]
    with pytest.raises(DataError, match="2 questions, 1 answers"):
        read({"image": "i", "questions": "q", "answers": "a"}, record | {"a": [["1"]]})
    with pytest.raises(DataError, match="1 questions, 0 answers"):
        read({"image": "i", "questions": "q"}, record | {"q": "a?"})


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"bytes": None, "path": "p/a.jpg"}, "/data/p/a.jpg"),
        ({"bytes": b"x", "path": "p/a.jpg"}, b"x"),
        ("/abs/a.jpg", "/abs/a.jpg"),
        ([b"x"], b"x"),
    ],
)
def test_images_as_bytes_structs_and_paths(image, expected):
    found = read({"image": "i", "captions": "c"}, {"i": image, "c": "x"}, folder="/data")
    assert found["image"] == expected


@pytest.mark.parametrize("image", [None, b"", {"bytes": None, "path": None}, [], 3.5])
def test_what_is_no_image_is_an_error(image):
    with pytest.raises(DataError, match="shard, row 0: (the )?image"):
        read({"image": "i", "captions": "c"}, {"i": image, "c": "x"})


def test_an_address_is_no_image():
    with pytest.raises(DataError, match="only an address, https://a.b/c.jpg; download"):
        read({"image": "i", "captions": "c"}, {"i": "https://a.b/c.jpg", "c": "x"})


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("text", "no text for 'captions'; did you mean 'txt'[?] there is jpg, json"),
        ("json:captoin", "no 'captoin' there; did you mean 'caption'"),
        ("json:list.5", "a list of 2 has no item 5"),
        ("json:n.deeper", "no 'deeper' there; it is 3"),
        ("txt:caption", "shard, row 0, txt: not JSON"),
        ("struct", "captions is a struct of bytes, path: choose one, as in 'column:bytes'"),
        ("json:none", "no caption, question or label"),
        ("latin", "captions is not UTF-8"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(place, message):
    with pytest.raises(DataError, match=message) as caught:
        read({"image": "jpg", "captions": place}, RECORD | {"latin": b"\xe9"})
    assert str(caught.value).startswith("shard, row 0")


def test_a_label_is_one_text():
    with pytest.raises(DataError, match="label must be one text, there are 2"):
        read({"image": "jpg", "label": "sentences:raw"}, RECORD)


def test_misspelt_tables():
    with pytest.raises(TypeError, match="did you mean 'captions'"):
        fields.parse({"image": "jpg", "caption": "txt"})
    with pytest.raises(TypeError, match="required key 'image'"):
        fields.parse({"captions": "txt"})
    with pytest.raises(DataError, match="empty alternative"):
        fields.parse({"image": "jpg;"})


def test_columns_are_checked_without_a_record():
    parsed = fields.parse({"image": "jpg;png", "captions": "json:a;txt"})
    assert fields.columns(parsed) == ["jpg", "png", "json", "txt"]
    fields.check(parsed, ["png", "txt"], "s")
    with pytest.raises(DataError, match="s: no jpg or png for 'image'; .*there is jpeg, txt"):
        fields.check(parsed, ["txt", "jpeg"], "s")
