"""Any data set that tensorflow-datasets has prepared as array_record, read without TensorFlow.

The stored description is read, not the builder's code, and images stay the bytes of their file. A
set that lies there as tfrecord must be prepared again with `--file_format=array_record`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_jax.data.schema import DataError, Example, Question, inside, validate

_OURS = {
    "id": "id",
    "image": "image",
    "captions": "captions",
    "questions": "questions.question",
    "types": "questions.type",
    "question_ids": "questions.id",
    "answers": "answers",
    "answer_counts": "questions.answers",
    "label": "label",
}
FIELDS: Mapping[str, Mapping[str, str]] = {
    "coco_captions": {"id": "image/id", "image": "image", "captions": "captions.text"},
    "vqav2": _OURS,
    "flickr30k": _OURS,
    "jsonl_folder": _OURS,
}
"""For each data set, which of its features fills which part of an example; a.b is b inside a."""


class Tfds:
    """A split of a prepared tfds data set, in its stored order; images are encoded bytes.

    dataset: a name, "coco_captions", or with config and version, "coco_captions/2014:1.1.0". split:
    as in tfds, "train" or "train[:10%]". data_dir: where it was prepared, tfds's default where
    None. fields: a row for a data set that FIELDS does not list. Its keys: image, and any of id (by
    default the position), captions, label, questions with answers (one answer per question, or
    answer_counts of them), types and question_ids. A feature may be one text or a list of them.
    Raises DataError if the data set, the split or a feature is missing, or if it is not
    array_record.
    """

    def __init__(
        self,
        dataset: str,
        split: str = "train",
        data_dir: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        base = dataset.split("/")[0].split(":")[0]
        if fields is None and base not in FIELDS:
            raise DataError(
                f"no field table for {base}: pass fields={{'image': ..., 'captions': ...}} or use "
                f"one of {', '.join(FIELDS)}"
            )
        self.name = f"{base}/{split}"
        self._fields = dict(FIELDS[base] if fields is None else fields)
        unknown = sorted(set(self._fields) - set(_OURS))
        if unknown or "image" not in self._fields:
            raise DataError(
                f"fields of {base}: 'image' is required, {unknown} unknown; keys: "
                f"{', '.join(_OURS)}"
            )
        self._records, features = _open(dataset, split, data_dir)
        for key, path in self._fields.items():
            _check_feature(features, path, f"{self.name}, {key}")
        path = self._fields.get("label")
        self._label_names = getattr(features[path], "names", None) if path in features else None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        inside(index, self)
        record = self._records[index]
        parts = {key: _at(record, path) for key, path in self._fields.items()}
        example = {
            "id": _text(parts.get("id", index)),
            "image": parts["image"],
            "captions": _texts(parts.get("captions", [])),
            "questions": _questions(parts),
        }
        if "label" in parts and parts["label"] != b"" and parts["label"] != "":
            names = self._label_names
            example["label"] = names[parts["label"]] if names else _text(parts["label"])
        return validate(example, f"{self.name}, example {index}")


def _open(dataset: str, split: str, data_dir: str | None) -> tuple[Sequence[Any], Any]:
    """The stored records of a split, images undecoded, and the features."""
    import tensorflow_datasets as tfds  # takes a second, which other sources need not pay

    core: Any = tfds.core  # its members are lazy, which type checkers do not see
    name, keywords = core.naming.parse_builder_name_kwargs(dataset, data_dir=data_dir)
    try:
        builder = core.read_only_builder.builder_from_files(str(name), **keywords)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(
            f"{dataset} is not prepared in {data_dir or 'the default tfds folder'}. Of ours, run "
            f"python -m vlm_jax.data.prepare {name} --folder ... ; of tfds's own, "
            f"tfds build {name} --file_format=array_record ({error})"
        ) from None
    features = builder.info.features
    images = {k: tfds.decode.SkipDecoding() for k, f in features.items() if _is_image(f)}
    try:
        return builder.as_data_source(split, decoders=images), features
    except NotImplementedError:
        raise DataError(
            f"{builder.data_dir} is not in array_record form; prepare it again in another data_dir "
            f"with tfds build {name} --file_format=array_record"
        ) from None
    except ValueError as error:
        raise DataError(f"{dataset}: {error}") from None


def _is_image(feature: Any) -> bool:
    """Whether a feature would be decoded to pixels; by name, to load no class that needs
    TensorFlow.
    """
    return type(feature).__name__ == "Image"


def _check_feature(features: Any, path: str, where: str) -> None:
    """Raises DataError unless the data set has the feature that a field is filled from."""
    for key in path.split("."):
        inner = getattr(features, "feature", features)  # a sequence holds its elements' features
        if not hasattr(inner, "keys") or key not in inner:
            raise DataError(f"{where}: no feature {path!r} in the data set, which has {features}")
        features = inner[key]


def _at(record: Any, path: str) -> Any:
    """The value at a path such as "captions.text"; tfds stores a sequence of dicts as a dict of
    lists.
    """
    for key in path.split("."):
        record = record[key]
    return record


def _text(value: Any) -> str:
    """A text, which tfds stores as bytes, or a number as text."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _texts(value: Any) -> list[str]:
    """A list of texts; a single text becomes a list of one."""
    return [_text(value)] if isinstance(value, (bytes, str)) else [_text(one) for one in value]


def _questions(parts: Mapping[str, Any]) -> list[Question]:
    """The questions of a record, each with its share of the flat list of answers."""
    if "questions" not in parts:
        return []
    asked, answers = _texts(parts["questions"]), _texts(parts.get("answers", []))
    alone = isinstance(parts["questions"], (bytes, str))
    counts = parts.get("answer_counts", [len(answers)] if alone else [1] * len(asked))
    if len(counts) != len(asked) or sum(counts) != len(answers):
        raise DataError(f"{len(asked)} questions with {list(counts)} of {len(answers)} answers")
    types, ids = (_texts(parts.get(key, [b""] * len(asked))) for key in ("types", "question_ids"))
    questions, start = [], 0
    for position, question in enumerate(asked):
        stop = start + int(counts[position])
        entry = {"question": question, "answers": answers[start:stop]}
        entry |= {"type": types[position]} if types[position] else {}
        entry |= {"id": ids[position]} if ids[position] else {}
        questions.append(entry)
        start = stop
    return questions
