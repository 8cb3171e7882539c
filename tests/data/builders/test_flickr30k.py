import csv
import json

import pytest

from vlm_jax.data.builders import build
from vlm_jax.data.schema import DataError, validate
from vlm_jax.data.tfds_source import Tfds

ROWS = [
    ("1000092795.jpg", "train", ["Two men, outside.", 'A "garden"', "c", "d", "é"]),
    ("10002456.jpg", "test", ["Several men"] * 5),
    ("1000268201.jpg", "val", ["A child"] * 5),
    ("1000344755.jpg", "train", ["A man on a ladder"] * 5),
]


def as_json(folder):
    images = [
        {
            "filename": name,
            "split": split,
            "imgid": number,
            "sentids": list(range(5)),
            "sentences": [{"raw": text, "tokens": text.split()} for text in captions],
        }
        for number, (name, split, captions) in enumerate(ROWS)
    ]
    content = {"images": images, "dataset": "flickr30k"}
    (folder / "dataset_flickr30k.json").write_text(json.dumps(content))


def as_csv(folder):
    with open(folder / "flickr_annotations_30k.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for number, (name, split, captions) in enumerate(ROWS):
            writer.writerow([json.dumps(captions), "[0, 1, 2, 3, 4]", split, name, number])


@pytest.fixture(params=[("flickr30k-images", as_json), ("flickr30k_images", as_csv)])
def folder(request, tmp_path):
    images, write = request.param
    path = tmp_path / "files" / images
    path.mkdir(parents=True)
    for name, _, _ in ROWS:
        (path / name).write_bytes(name.encode())
    write(path.parent)
    return path.parent


def test_images_land_in_their_split_with_their_captions(folder, tmp_path):
    build("flickr30k", str(folder), str(tmp_path / "out"))
    found = {}
    for split, part in {"train": "train", "validation": "val", "test": "test"}.items():
        for example in Tfds("flickr30k", split, str(tmp_path / "out")):
            validate(example, "here")
            assert example["image"] == example["id"].encode() and example["questions"] == []
            found[example["id"]] = (part, example["captions"])
    assert found == {name: (split, captions) for name, split, captions in ROWS}


def test_missing_images_and_annotations_are_named(folder, tmp_path):
    (next(folder.glob("flickr30k?images")) / "10002456.jpg").unlink()
    with pytest.raises(DataError, match="there is no image .*10002456.jpg"):
        build("flickr30k", str(folder), str(tmp_path / "out"))
    for path in folder.glob("*a*.[jc]s*"):
        path.unlink()
    with pytest.raises(DataError, match="(?s)dataset_flickr30k.json or flickr_annotations_30k.csv"):
        build("flickr30k", str(folder), str(tmp_path / "out"))


def test_a_file_with_other_splits_is_refused(folder, tmp_path):
    for path in folder.glob("*a*.[jc]s*"):
        path.write_text(path.read_text().replace("val", "restval"))
    with pytest.raises(DataError, match="'restval'.*expected some of"):
        build("flickr30k", str(folder), str(tmp_path / "out"))
