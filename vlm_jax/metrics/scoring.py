"""Scoring of prediction files, alone and against each other; the files say what is to be measured.

Captions: BLEU, ROUGE-L, CIDEr-D, METEOR where it can be run, and their diversity. Answers: VQA
accuracy, overall and by type of question, exact match, relaxed accuracy, ANLS, character error
rate. Labels: accuracy, balanced accuracy, precision, recall, F1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm_jax.metrics.bootstrap import Comparison, Measure, Score, compare_measures, mean_of, score
from vlm_jax.metrics.captions import token_measures, tokenized
from vlm_jax.metrics.character_errors import character_errors
from vlm_jax.metrics.classification import classification_measure
from vlm_jax.metrics.diversity import diversity
from vlm_jax.metrics.files import ReferenceFile, read_predictions, read_references
from vlm_jax.metrics.identity import check_ids, in_id_order
from vlm_jax.metrics.meteor import meteor_measure, why_no_meteor
from vlm_jax.metrics.ptb_tokenizer import ptb_tokenize
from vlm_jax.metrics.text_answers import answer_scores
from vlm_jax.metrics.vqa_accuracy import vqa_accuracy_scores


class FileScores(NamedTuple):
    """What a file scores. kind: "caption", "answer" or "label". absent: metric -> why it is not
    among the scores.
    """

    kind: str
    n: int
    scores: dict[str, Score]
    absent: dict[str, str]


def score_file(
    predictions: str | Path,
    references: str | Path,
    *,
    training: str | Path | None = None,
    meteor: bool = True,
    allow_empty: bool = False,
    **options: Any,
) -> FileScores:
    """Every metric of one prediction file with n and a 95 % interval.

    predictions, references: files as `vlm_jax.metrics.files` describes them. training: references
    that the system learnt from, for the share of novel captions. meteor: False leaves out what
    takes long. allow_empty: score empty predictions instead of refusing them. options: those of
    `vlm_jax.metrics.bootstrap.score`. Raises ValueError, naming file, line or ids.
    """
    kind, texts = read_predictions(predictions, allow_empty)
    truth = read_references(references, kind)
    _check(texts, truth.texts, predictions, references)
    measures = measures_of(kind, texts, truth, meteor)
    scores = score(measures, **options)
    if kind == "caption":
        seen = _training_captions(training) if training else None
        scores |= diversity({key: ptb_tokenize(text) for key, text in texts.items()}, seen)
    return FileScores(kind, len(texts), scores, _absent(kind, meteor))


def compare(
    a: str | Path,
    b: str | Path,
    references: str | Path,
    *,
    meteor: bool = False,
    allow_empty: bool = False,
    **options: Any,
) -> dict[str, Comparison]:
    """Paired bootstrap between two prediction files of the same examples: metric -> values,
    difference b - a with its 95 % interval, and p.

    Arguments and errors as those of `score_file`; ValueError too if the files differ in kind.
    """
    first, second = read_predictions(a, allow_empty), read_predictions(b, allow_empty)
    if first.kind != second.kind:
        raise ValueError(f"{a} predicts a {first.kind} each, {b} a {second.kind}")
    truth = read_references(references, first.kind)
    for path, file in ((a, first), (b, second)):
        _check(file.texts, truth.texts, path, references)
    classes = {*first.texts.values(), *second.texts.values()}
    measured = [
        measures_of(file.kind, file.texts, truth, meteor, classes) for file in (first, second)
    ]
    return compare_measures(*measured, **options)


def measures_of(
    kind: str,
    texts: Mapping[Any, str],
    truth: ReferenceFile,
    meteor: bool = False,
    classes: set[str] | None = None,
) -> list[Measure]:
    """The measures of predictions of a kind, in the order of ids. classes: labels beside those that
    occur here. METEOR is among them only where it can be run. Raises ValueError as `check_ids`
    does.
    """
    texts = {key: texts[key] for key in in_id_order(texts)}
    if kind == "caption":
        pair = tokenized(texts, truth.texts)
        extra = [meteor_measure(*pair)] if meteor and not why_no_meteor() else []
        return [*token_measures(*pair), *extra]
    if kind == "answer":
        return _answer_measures(texts, truth)
    return [_label_measure(texts, truth.texts, classes or set())]


def _answer_measures(texts: Mapping[Any, str], truth: ReferenceFile) -> list[Measure]:
    accuracy = vqa_accuracy_scores(texts, truth.texts)
    measures = [mean_of("vqa_accuracy", accuracy)]
    for name in sorted({truth.types[key] for key in texts if key in truth.types}):
        here = np.array([truth.types.get(key) == name for key in texts], np.float64)
        measures.append(mean_of(f"vqa_accuracy/{name}", accuracy * here, here))
    others = answer_scores(texts, truth.texts)
    measures += [mean_of(name, scores) for name, scores in others.items()]
    edits, characters = character_errors(texts, truth.texts)
    return measures + ([mean_of("CER", edits, characters)] if characters.any() else [])


def _label_measure(
    texts: Mapping[Any, str], truth: Mapping[Any, Sequence[str]], classes: set[str]
) -> Measure:
    """Classes are the names that occur; those of a set without labels do not change any score."""
    check_ids(texts, truth)
    names = sorted({*texts.values(), *(group[0] for group in truth.values()), *classes})
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[truth[key][0]] for key in texts])
    given = np.array([number[text] for text in texts.values()])
    return classification_measure(labels, given, len(names))


def _check(texts: Mapping, truth: Mapping, predictions: str | Path, references: str | Path) -> None:
    try:
        check_ids(texts, truth)
    except ValueError as error:
        raise ValueError(f"{predictions} and {references}: {error}") from None


def _training_captions(path: str | Path) -> set[str]:
    groups = read_references(path, "caption").texts.values()
    return {ptb_tokenize(caption) for group in groups for caption in group}


def _absent(kind: str, meteor: bool) -> dict[str, str]:
    """The caption metrics that were not computed, and why."""
    if kind != "caption":
        return {}
    reason = why_no_meteor() if meteor else "left out on request"
    return ({"METEOR": reason} if reason else {}) | {"SPICE": "is not supported"}
