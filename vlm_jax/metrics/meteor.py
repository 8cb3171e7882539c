"""METEOR 1.5 (Denkowski and Lavie, 2014) by its own Java program, where that can be run.

Needs `java` and the jar that the package pycocoevalcap brings (`pip install pycocoevalcap`), with
its options: English, `-norm`. The jar only aligns each caption with its references and counts; the
score of a set or of a resample is computed here from the counts, with the published English
parameters. As in the jar, a caption equal to its reference has no fragmentation. No deviation.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vlm_jax.metrics.bootstrap import Measure, Weights
from vlm_jax.metrics.corpus import Predictions, References, aligned

PACKAGE = "pycocoevalcap"
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_FIELDS = 23


def meteor_jar() -> Path | None:
    """Where pycocoevalcap keeps the jar; None if the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    folders = list(found.submodule_search_locations or []) if found else []
    jars = [Path(folder) / "meteor" / "meteor-1.5.jar" for folder in folders]
    return next((jar for jar in jars if jar.exists()), None)


def why_no_meteor() -> str | None:
    """What is missing to compute METEOR, in a few words; None if nothing is."""
    missing = [] if shutil.which("java") else ["java"]
    missing += [] if meteor_jar() else [f"the package {PACKAGE}"]
    return f"needs {' and '.join(missing)}" if missing else None


def meteor_measure(predictions: Predictions, references: References) -> Measure:
    """METEOR in [0, 1] of tokenized captions.

    Takes about ten seconds and a second per thousand captions. Raises ValueError as `check_ids`
    does, and RuntimeError where `why_no_meteor` has a reason or the program fails.
    """
    if reason := why_no_meteor():
        raise RuntimeError(f"METEOR {reason}")
    pairs = zip(*aligned(predictions, references), strict=True)
    lines = [" ||| ".join(["SCORE", *map(_plain, [*group, said])]) for said, group in pairs]
    return measure_of_counts(_count(lines))


def _plain(caption: str) -> str:
    return " ".join(caption.replace("|||", "").split())


def _count(lines: list[str]) -> Float[np.ndarray, "N 23"]:
    """The counts by which the program answers SCORE lines."""
    jar = meteor_jar()
    assert jar is not None
    command = ["java", "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    done = subprocess.run(
        command, cwd=jar.parent, input="\n".join([*lines, ""]), capture_output=True, text=True
    )
    rows = [row.split() for row in done.stdout.splitlines()]
    if done.returncode or len(rows) != len(lines) or any(len(row) != _FIELDS for row in rows):
        raise RuntimeError(f"METEOR's program failed: {done.stderr.strip()[-500:] or rows[-1:]}")
    return np.array(rows, np.float64)


def measure_of_counts(counts: Float[np.ndarray, "N 23"]) -> Measure:
    """The measure "METEOR" of the program's counts: per caption length and function words of it and
    of its best reference, matches by matcher, chunks, and matched words of either.
    """
    counts = np.array(counts, np.float64)
    length, reference, chunks, matched, matched_reference = counts[:, [0, 1, 20, 21, 22]].T
    whole = (chunks == 1) & (matched == length) & (matched_reference == reference)
    counts[whole, 20] = 0

    def value(weights: Weights) -> np.ndarray:
        weights = np.ones(len(counts)) if weights is None else weights.astype(np.float64)
        return np.array([_score(weights @ counts)])  # sums of whole numbers: exact in any order

    return Measure(("METEOR",), len(counts), value)


def _score(counts: Float[np.ndarray, " 23"]) -> float:
    """Equations 1 to 5 of the paper."""
    lengths, function_words = counts[:2], counts[2:4]  # of captions, of references
    matches = counts[4:20].reshape(4, 2, 2)  # [matcher, content or function, caption or reference]
    mix = np.array([DELTA, 1 - DELTA])
    weighed = np.einsum("m,c,mcs->s", MATCHER_WEIGHTS, mix, matches)
    if not weighed.all():
        return 0.0
    precision, recall = weighed / (
        DELTA * (lengths - function_words) + (1 - DELTA) * function_words
    )
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    fragmentation = counts[20] / (counts[21:].sum() / 2)
    return float(mean * (1 - GAMMA * fragmentation**BETA))
