import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest

from vlm_jax import report
from vlm_jax.data.scenes import Scenes

DATA = {"name": "scenes", "split": "test", "size": 32, "length": 12}
EVALS = {
    "captions": {"task": "captioning", "data": DATA},
    "answers": {"task": "vqa", "data": DATA},
    "search": {"task": "retrieval", "data": DATA},
}
HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def write_lines(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def workdir(tmp_path):
    """A finished run, without anybody having trained it."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"total_steps": 30, "data": {"train": DATA}, "evals": EVALS}
    config["expected"] = {"answers/accuracy": [0.9, 0.05]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "versions.json").write_text('{"packages": {"jax": "0.0.1-unlikely"}}')
    (folder / "parameters.txt").write_text("parameter  count\nw  1,234\ntotal  0.1 MiB  1,234\n")
    scores = {"answers/accuracy": 0.8765, "answers/accuracy/question_only": 0.4321}
    scores |= {"captions/CIDEr-D": 1.5, "captions/CIDEr-D/other_image": 0.5, "answers/n": 72.0}
    losses = lambda step: {"loss": 3 / step, "loss/vqa": 2 / step, "loss/captioning": 1 / step}
    log = [{"step": step, **losses(step)} | (scores if step > 10 else {}) for step in (10, 20, 30)]
    write_lines(folder / "metrics.jsonl", log)
    timing = [{"step": s, "examples_per_second": 512.0, "waiting_share": 0.04} for s in (10, 20)]
    write_lines(folder / "timing.jsonl", timing)
    examples = list(Scenes(split="test", size=32, length=12))
    said = [{"id": example["id"], "caption": f"I see {example['id']}"} for example in examples]
    write_lines(folder / "predictions" / "captions.jsonl", said)
    asked = [
        (example["id"], k, q) for example in examples for k, q in enumerate(example["questions"])
    ]
    given = [
        {"id": f"{i}/{k}", "question": q["question"], "answer": q["answers"][0] if k else "a whale"}
        for i, k, q in asked
    ]
    write_lines(folder / "predictions" / "answers.jsonl", given)
    hits = [example["id"] for example in examples[:5]]
    found = [{"id": e["id"], "text": e["captions"][0], "hits": hits} for e in examples]
    write_lines(folder / "predictions" / "search.jsonl", found)
    return folder


class Page(HTMLParser):
    """Tags with attributes and the text of a page; AssertionError if tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)

    def words(self):
        return " ".join(" ".join(self.text).split())


def read(folder):
    return Page(report.write(folder).read_text(encoding="utf-8"))


def test_a_finished_run_is_shown_whole(workdir):
    page = read(workdir)
    words = page.words()
    for part in ("30 of 30", "1,234", "512", "4.0%", "0.0.1-unlikely"):
        assert part in words
    assert "accuracy 0.876 question only 0.432 expected 0.900 ± 0.05" in words
    assert "72 examples" in words and "I see test-0" in words
    queries = [5 if i < 5 else 6 for i in (0, 1, 3, 4, 6, 7, 9, 10)]  # evenly spaced; 5 hits
    assert page.count("img") == 12 + 12 + sum(queries), "a query's own picture if it is no hit"
    assert words.count("true:") == 12, "one wrong answer for each picture"
    assert words.count("✓") >= 4
    titles = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    curves = ["training loss", "captions: CIDEr-D", "answers: accuracy"]
    assert titles == [*curves, "speed", "waiting for data"]


def test_the_page_needs_nothing_from_elsewhere(workdir):
    page = read(workdir)
    for _, attributes in page.tags:
        for key in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(key) or "data:image/").startswith("data:image/")
    text = (workdir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    assert "prefers-color-scheme: dark" in text


def test_hostile_text_stays_text(workdir):
    config = json.loads((workdir / "config.json").read_text())
    config["evals"] = {HOSTILE: EVALS["captions"], "answers": EVALS["answers"]} | {
        "search": EVALS["search"] | {"note": HOSTILE}
    }
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "versions.json").write_text(HOSTILE)
    rows = [{"id": HOSTILE, "text": HOSTILE, "hits": [HOSTILE], "captions": [HOSTILE]}]
    write_lines(workdir / "predictions" / "search.jsonl", rows)
    rows = [{"id": f"{HOSTILE}/0", "question": HOSTILE, "answer": HOSTILE}]
    write_lines(workdir / "predictions" / "answers.jsonl", rows)
    log = [{"step": s, "loss": s, f"loss/{HOSTILE}": s, f"answers/{HOSTILE}": 1.0} for s in (1, 2)]
    write_lines(workdir / "metrics.jsonl", log)
    page = read(workdir)
    assert page.count("script") == 0 and page.count("style") == 1
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    assert "<script>alert(1)</script>" in page.words()


@pytest.mark.parametrize(
    "missing",
    ["metrics.jsonl", "timing.jsonl", "versions.json", "parameters.txt"]
    + [f"predictions/{name}.jsonl" for name in EVALS],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(workdir, missing):
    whole = read(workdir).words()
    (workdir / missing).unlink()
    words = read(workdir).words()
    assert words != whole and len(words) > 0.3 * len(whole)
    if missing != "timing.jsonl":
        assert re.search("No .* in the workdir|Not evaluated yet|no predictions", words)


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    words = read(tmp_path).words()
    assert "no evaluations" in words and "Nothing was logged" in words


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the workdir of a run"):
        report.write(tmp_path)


def test_importing_it_is_quick_and_needs_no_jax():
    code = "import sys, vlm_jax.report; print({'jax', 'matplotlib', 'grain'} & set(sys.modules))"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()" and time.perf_counter() - start < 5
