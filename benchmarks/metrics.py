"""Caption metrics against pycocoevalcap: the same captions, one scorer after the other in turn.

    pip install pycocoevalcap          # once; not a dependency of vlm_jax
    python -m benchmarks.metrics [--images 40504] [--rounds 1] [--json]

Both sides score made-up captions, tokenized already: one prediction and five references per image,
of about ten words with the word frequencies of a natural language. The numbers are compared too. A
ratio is our seconds by theirs, so lower is better. With --json the last line is one JSON object
{"bleu": ..., "rouge": ..., "cider": ..., "total_ratio": ...}.
"""

import argparse
import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np

from vlm_jax.metrics.bleu import bleu
from vlm_jax.metrics.cider import cider
from vlm_jax.metrics.rouge import rouge_l

WORDS, TOPIC, FILLERS = 9000, 12, 48


def make_captions(images: int, references: int = 5, seed: int = 0):
    """(predictions {id: caption}, references {id: captions}); captions of an image share words."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, WORDS + 1)
    drawn = rng.choice(WORDS, p=frequency / frequency.sum(), size=(images, TOPIC + FILLERS))
    words = np.array([f"word{i}" for i in range(WORDS)])

    def caption(row: np.ndarray) -> str:
        length = int(np.clip(rng.normal(10.5, 2.4), 5, 40))
        topic = row[(rng.integers(4) + np.arange(length)) % TOPIC]
        filler = row[TOPIC + rng.integers(FILLERS, size=length)]
        return " ".join(words[np.where(rng.random(length) < 0.6, topic, filler)])

    groups = [[caption(row) for _ in range(1 + references)] for row in drawn]
    return (
        {image: group[0] for image, group in enumerate(groups)},
        {image: group[1:] for image, group in enumerate(groups)},
    )


def peers() -> dict[str, Callable]:
    """The official scorers by name; exits with a remedy where they are not installed."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        sys.exit(f"{error}\nThe other side is missing; install it: pip install pycocoevalcap")
    return {
        "bleu": lambda found, true: Bleu(4).compute_score(true, found)[0],
        "rouge": lambda found, true: Rouge().compute_score(true, found)[0],
        "cider": lambda found, true: Cider().compute_score(true, found)[0],
    }


def seconds_of(function: Callable, *arguments) -> tuple[float, list[float]]:
    """(seconds, values) of one call; what it prints is dropped."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        values = function(*arguments)
    return time.perf_counter() - start, np.atleast_1d(values).tolist()


def main() -> None:
    """Run both sides and print seconds, ratios and the largest difference of the scores."""
    parser = argparse.ArgumentParser(description="Caption metrics against pycocoevalcap.")
    parser.add_argument("--images", type=int, default=40504)
    parser.add_argument("--rounds", type=int, default=1, help="the best of so many counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    official, ours = peers(), {"bleu": bleu, "rouge": rouge_l, "cider": cider}
    predictions, references = make_captions(options.images)
    wrapped = {image: [caption] for image, caption in predictions.items()}
    best = {name: [math.inf, math.inf] for name in ours}
    print(f"{options.images} captions x 5 references\n")
    for _ in range(options.rounds):
        for name, metric in ours.items():
            own, values = seconds_of(metric, predictions, references)
            other, expected = seconds_of(official[name], wrapped, references)
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)
            best[name] = [min(best[name][0], own), min(best[name][1], other)]
    for name, (own, other) in best.items():
        print(f"{name:6} {own:7.2f} s  pycocoevalcap {other:7.2f} s  ratio {own / other:.3f}")
    own, other = (sum(column) for column in zip(*best.values(), strict=True))
    print(f"{'total':6} {own:7.2f} s  pycocoevalcap {other:7.2f} s  ratio {own / other:.3f}")
    print("all scores equal to 1e-9")
    if options.json:
        ratios = {name: own / other for name, (own, other) in best.items()}
        print(json.dumps({**ratios, "total_ratio": own / other}))


if __name__ == "__main__":
    main()
