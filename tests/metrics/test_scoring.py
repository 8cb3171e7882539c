"""Files scored from end to end, by functions and from the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vlm_jax.metrics import caption_metrics, compare, score_file, scoring, vqa_accuracy
from vlm_jax.metrics.__main__ import main

WORDS = "a red dog runs near the old tree while two cats sleep".split()


@pytest.fixture
def files(tmp_path):
    """A folder with two systems' captions and answers of the same examples, and the truth."""
    rng = np.random.default_rng(0)
    text = lambda: " ".join(rng.choice(WORDS, size=rng.integers(4, 9)))
    truth = {i: [text() for _ in range(3)] for i in range(20)}
    answers = {i: [str(rng.choice(["yes", "no", "2"])) for _ in range(10)] for i in range(30)}
    save = lambda name, content: (tmp_path / name).write_text(json.dumps(content))
    pairs = [{"image_id": i, "caption": one} for i, group in truth.items() for one in group]
    save("captions.json", {"annotations": pairs})
    save("a.json", [{"image_id": i, "caption": text()} for i in reversed(truth)])
    save("b.json", [{"image_id": i, "caption": truth[i][0] + " x"} for i in truth])
    questions = [
        {
            "question_id": i,
            "answer_type": "number" if i % 3 else "other",
            "answers": [{"answer": answer} for answer in group],
        }
        for i, group in answers.items()
    ]
    save("questions.json", {"annotations": questions})
    save("answers.json", [{"question_id": i, "answer": "yes"} for i in answers])
    return tmp_path


def _load(path, key, value):
    return {row[key]: row[value] for row in json.loads(path.read_text())}


def test_captions(files, monkeypatch):
    monkeypatch.setattr(scoring, "why_no_meteor", lambda: "needs java")
    found = score_file(files / "a.json", files / "captions.json", training=files / "captions.json")
    truth = {}
    for row in json.loads((files / "captions.json").read_text())["annotations"]:
        truth.setdefault(row["image_id"], []).append(row["caption"])
    expected = caption_metrics(_load(files / "a.json", "image_id", "caption"), truth)
    assert {name: found.scores[name].value for name in expected} == expected
    assert {"distinct-1", "distinct-2", "novel"} < found.scores.keys()
    assert {one.n for one in found.scores.values()} == {20} and found.n == 20
    assert found.absent == {"METEOR": "needs java", "SPICE": "is not supported"}
    assert "METEOR" not in found.scores


def test_answers_overall_and_by_type(files):
    found = score_file(files / "answers.json", files / "questions.json")
    truth = json.loads((files / "questions.json").read_text())["annotations"]
    answers = {row["question_id"]: [a["answer"] for a in row["answers"]] for row in truth}
    given = dict.fromkeys(answers, "yes")
    assert found.scores["vqa_accuracy"].value == vqa_accuracy(given, answers)
    ids = [row["question_id"] for row in truth if row["answer_type"] == "other"]
    expected = vqa_accuracy(dict.fromkeys(ids, "yes"), {key: answers[key] for key in ids})
    assert found.scores["vqa_accuracy/other"].value == pytest.approx(expected)
    assert found.scores["vqa_accuracy/other"].n == len(ids) == 10
    assert {"vqa_accuracy/number", "exact_match", "relaxed_accuracy", "ANLS"} < found.scores.keys()


def test_labels(files):
    (files / "l.jsonl").write_text('{"id": "1", "label": "dog"}\n{"id": "2", "label": "cat"}\n')
    (files / "t.jsonl").write_text('{"id": "1", "label": "dog"}\n{"id": "2", "label": "cow"}\n')
    found = score_file(files / "l.jsonl", files / "t.jsonl")
    assert found.scores["accuracy"].value == 0.5
    assert compare(files / "l.jsonl", files / "t.jsonl", files / "t.jsonl")["accuracy"].b == 1.0


def test_comparison_agrees_with_each_file_alone_and_turns_around(files):
    paths = files / "a.json", files / "b.json"
    found = compare(*paths, files / "captions.json", resamples=200)
    alone = [score_file(path, files / "captions.json", meteor=False).scores for path in paths]
    for name, one in found.items():
        assert (one.a, one.b) == (alone[0][name].value, alone[1][name].value)
        assert one.low <= one.difference <= one.high and one.n == 20
    assert found["CIDEr-D"].low > 0 and found["CIDEr-D"].p < 0.02
    swapped = compare(*paths[::-1], files / "captions.json", resamples=200)
    assert swapped["BLEU-4"].low == pytest.approx(-found["BLEU-4"].high)


def test_the_command_line_prints_a_table_and_one_json_object(files):
    arguments = [str(files / "a.json"), str(files / "captions.json"), "--no-meteor", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "vlm_jax.metrics", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    *table, last = done.stdout.splitlines()
    assert table[0].split() == ["metric", "value", "95%", "interval", "n"]
    assert any(line.split()[:2] == ["METEOR", "absent"] for line in table)
    assert json.loads(last)["scores"]["CIDEr-D"]["n"] == 20


def test_the_command_line_compares(files, capsys):
    paths = [str(files / name) for name in ("a.json", "b.json", "captions.json")]
    assert main(["compare", *paths, "--json", "--no-meteor", "--resamples", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["metric", "a", "b", "b"]
    assert json.loads(lines[-1])["BLEU-1"]["n"] == 20


def test_mistakes_are_one_line_and_a_status(files, capsys):
    rows = json.loads((files / "a.json").read_text())
    (files / "a.json").write_text(json.dumps([*rows[2:], {"image_id": 99, "caption": "x"}]))
    assert main([str(files / "a.json"), str(files / "captions.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "2 ids without a prediction: 18, 19" in error
    assert main(["compare", *[str(files / n) for n in ("b.json", "answers.json", "a.json")]]) == 2
    assert "predicts a caption each" in capsys.readouterr().err


def test_extra_ids_are_named(files):
    rows = json.loads((files / "b.json").read_text())
    (files / "b.json").write_text(json.dumps([*rows, {"image_id": 99, "caption": "x"}]))
    with pytest.raises(ValueError, match="b.json and .*: 1 ids predicted but without .*: 99"):
        score_file(files / "b.json", files / "captions.json")
