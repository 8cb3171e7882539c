"""Recomputes the golden files of this folder with the official scorers.

Needs Java and pycocoevalcap, neither of which the tests need:

    python -m venv /tmp/official && /tmp/official/bin/pip install pycocoevalcap
    /tmp/official/bin/python tests/metrics/make_goldens.py

Texts are read from the golden files themselves and only the answers are replaced, but for
ptb_generated.jsonl, whose texts come from ptb_sentences.py. To add a case, append it to another
file with any answer, or to the lists there, and run this.
"""

import json
import pathlib

from ptb_sentences import sentences
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

FOLDER = pathlib.Path(__file__).parent
SEPARATOR = "zzz"  # between two texts, since the tokenizer looks across line breaks


def tokenize_golden() -> None:
    """Rewrite ptb_golden.jsonl and ptb_generated.jsonl."""
    path = FOLDER / "ptb_golden.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    tokenize_texts([json.loads(line)["text"] for line in lines], path)
    tokenize_texts(sentences(), FOLDER / "ptb_generated.jsonl")


def tokenize_texts(texts: list[str], path: pathlib.Path) -> None:
    """Write one {"text", "tokens"} per line."""
    captions = {i: [{"caption": text}, {"caption": SEPARATOR}] for i, text in enumerate(texts)}
    tokens = PTBTokenizer().tokenize(captions)
    if any(found[1] != SEPARATOR for found in tokens.values()):
        raise SystemExit("a text breaks the line in the official tokenizer; take it out")
    rows = [{"text": text, "tokens": tokens[i][0]} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def score_golden() -> None:
    """Rewrite the scores of caption_golden.json: {set name: {predictions, references, scores}}."""
    path = FOLDER / "caption_golden.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    for case in golden.values():
        found = {key: [caption] for key, caption in case["predictions"].items()}
        bleu, bleu_scores = Bleu(4).compute_score(case["references"], found, verbose=0)
        rouge, rouge_scores = Rouge().compute_score(case["references"], found)
        cider, cider_scores = Cider().compute_score(case["references"], found)
        keys = list(case["references"])
        case["scores"] = {
            "bleu": list(map(float, bleu)),
            "rouge_l": float(rouge),
            "cider": float(cider),
            "per_example": {
                key: {
                    "bleu": [float(scores[i]) for scores in bleu_scores],
                    "rouge_l": float(rouge_scores[i]),
                    "cider": float(cider_scores[i]),
                }
                for i, key in enumerate(keys)
            },
        }
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tokenize_golden()
    score_golden()
