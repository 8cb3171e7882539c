import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vlm_jax.data.schema import DataError, validate
from vlm_jax.data.tfds_source import FIELDS, Tfds

CAPTIONS = [["ein Bär", "a bear"], ["one caption"], ["x", "y", "z"], [], ["last"]]


def jpeg(shade):
    file = io.BytesIO()
    Image.new("RGB", (12, 8), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


def coco_captions_features():
    """What tfds's own coco_captions stores, feature by feature."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.int64,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(num_classes=80),
                    "is_crowd": np.bool_,
                }
            ),
            "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
        }
    )


def coco_captions_records():
    box = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=0.5, xmax=0.5)
    for number, captions in enumerate(CAPTIONS):
        yield {
            "image": io.BytesIO(jpeg(40 * number)),
            "image/filename": f"COCO_val2014_{number:012d}.jpg",
            "image/id": 391895 + number,
            "objects": [{"id": 1, "area": 2, "bbox": box, "label": 3, "is_crowd": False}] * number,
            "captions": [{"text": text, "id": 7} for text in captions],
        }


def others_features():
    """The shapes other data sets come in: a question with answers, a class, a list of pairs."""
    return tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Image(),
            "question": tfds.features.Text(),
            "replies": tfds.features.Sequence(tfds.features.Text()),
            "title": tfds.features.Text(),
            "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
            "pairs": tfds.features.Sequence({"q": tfds.features.Text(), "a": tfds.features.Text()}),
        }
    )


def others_records():
    for number in range(2):
        yield {
            "picture": io.BytesIO(jpeg(number)),
            "question": f"how many {number}?",
            "replies": ["1", "one"],
            "title": "a title",
            "kind": number,
            "pairs": [{"q": "q0", "a": "a0"}, {"q": "q1", "a": "a1"}],
        }


def write(dataset, structure, records, data_dir, configs=()):
    """Stores records as tfds does, under a builder of that name."""

    class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version("1.1.0")
        BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=config) for config in configs)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=structure())

        def _split_generators(self, dl_manager):
            return {"val": self._generate_examples()}

        def _generate_examples(self):
            return enumerate(records())

    Written(data_dir=str(data_dir), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    write("coco_captions", coco_captions_features, coco_captions_records, folder, ["2014"])
    write("others", others_features, others_records, folder)
    return str(folder)


def test_coco_captions_become_examples_with_undecoded_images(stored):
    source = Tfds("coco_captions", "val", stored)
    assert len(source) == 5 and source.name == "coco_captions/val"
    examples = {e["id"]: validate(e, "here") for e in source}
    assert set(examples) == {str(391895 + number) for number in range(5)}
    for number, captions in enumerate(CAPTIONS):
        example = examples[str(391895 + number)]
        assert example["captions"] == captions and example["questions"] == []
        assert example["image"] == jpeg(40 * number)


def test_access_is_random_and_repeatable_and_splits_can_be_sliced(stored):
    source = Tfds("coco_captions", "val", stored)
    forward = [source[i]["id"] for i in range(5)]
    assert [source[i]["id"] for i in (4, 0, 2)] == [forward[i] for i in (4, 0, 2)]
    assert [e["id"] for e in Tfds("coco_captions/2014:1.1.0", "val[2:4]", stored)] == forward[2:4]
    for position in (-1, 5):
        with pytest.raises(IndexError, match="outside"):
            source[position]


def test_other_data_sets_are_read_by_a_table_of_fields(stored):
    fields = {"image": "picture", "captions": "title", "label": "kind"}
    asked = {"questions": "question", "answers": "replies", "types": "title"}
    source = Tfds("others", "val", stored, fields | asked)
    examples = [validate(example, "here") for example in source]
    assert [e["id"] for e in examples] == ["0", "1"]
    assert {e["label"] for e in examples} == {"cat", "dog"}
    for example in examples:
        number = ["cat", "dog"].index(example["label"])
        assert example["captions"] == ["a title"] and example["image"] == jpeg(number)
        question = {"question": f"how many {number}?", "answers": ["1", "one"], "type": "a title"}
        assert example["questions"] == [question]
    pairs = {"image": "picture", "questions": "pairs.q", "answers": "pairs.a"}
    assert Tfds("others", "val", stored, pairs)[0]["questions"] == [
        {"question": "q0", "answers": ["a0"]},
        {"question": "q1", "answers": ["a1"]},
    ]


def test_answers_that_do_not_match_the_questions_are_an_error(stored):
    fields = {"image": "picture", "questions": "pairs.q", "answers": "question"}
    with pytest.raises(DataError, match=r"2 questions with \[1, 1\] of 1 answers"):
        Tfds("others", "val", stored, fields)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "coco_captions", "split": "test"}, "Unknown split 'test'"),
        ({"dataset": "flickr30k", "split": "test"}, "prepare flickr30k --folder"),
        ({"dataset": "others"}, "no field table for others"),
        ({"dataset": "others", "fields": {"captions": "title"}}, "'image' is required"),
        (
            {"dataset": "others", "split": "val", "fields": {"image": "picture", "caption": "t"}},
            r"\['caption'\] unknown",
        ),
        (
            {"dataset": "others", "split": "val", "fields": {"image": "img"}},
            "others/val, image: no feature 'img'",
        ),
        (
            {"dataset": "others", "split": "val", "fields": {"image": "picture", "id": "pairs.z"}},
            "no feature 'pairs.z'",
        ),
    ],
)
def test_what_is_missing_is_named(arguments, message, stored):
    with pytest.raises(DataError, match=message):
        Tfds(data_dir=stored, **arguments)


def test_the_table_of_fields_fits_tfds_s_own_coco_captions():
    features = coco_captions_features()
    assert FIELDS["coco_captions"] == {
        "id": "image/id",
        "image": "image",
        "captions": "captions.text",
    }
    assert {"image/id", "image", "captions"} <= set(features)


def test_data_in_tfrecord_form_are_answered_with_the_remedy(stored, tmp_path):
    # Written as array_record, then labelled otherwise: writing tfrecord needs TensorFlow.
    write("coco_captions", coco_captions_features, coco_captions_records, tmp_path, ["2014"])
    info = tmp_path / "coco_captions" / "2014" / "1.1.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for file in info.parent.glob("*.array_record-*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="not in array_record form.*--file_format=array_record"):
        Tfds("coco_captions", "val", str(tmp_path))


def test_reading_imports_no_tensorflow(stored):
    code = (
        "import sys; from vlm_jax.data.sources import make_source;"
        "assert 'tensorflow_datasets' not in sys.modules;"
        "source = make_source({'name': 'tfds', 'dataset': 'coco_captions', 'split': 'val',"
        f" 'data_dir': {stored!r}}});"
        "print([len(source[i]['image']) > 100 for i in range(len(source))]);"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([True] * 5)
