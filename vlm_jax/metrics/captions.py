"""The caption metrics together, from raw text, as the COCO evaluation server reports them
(arXiv:1504.00325). SPICE is not among them: its parser needs models that are not freely at hand
offline. METEOR is in `vlm_jax.metrics.meteor`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm_jax.metrics.bleu import BleuStatistics, bleu_from_statistics, bleu_of_corpus
from vlm_jax.metrics.bootstrap import Measure, Weights, mean_of
from vlm_jax.metrics.cider import cider_of_corpus
from vlm_jax.metrics.corpus import Predictions, References, aligned, count_corpus
from vlm_jax.metrics.identity import check_ids
from vlm_jax.metrics.ptb_tokenizer import ptb_tokenize
from vlm_jax.metrics.rouge import rouge_l_score


def tokenized(
    predictions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]
) -> tuple[dict[Any, str], dict[Any, list[str]]]:
    """Both sides tokenized as the COCO server does. Raises ValueError as `check_ids` does."""
    check_ids(predictions, references)
    found = {key: ptb_tokenize(caption) for key, caption in predictions.items()}
    return found, {key: [ptb_tokenize(caption) for caption in references[key]] for key in found}


def caption_measures(
    predictions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]
) -> list[Measure]:
    """`token_measures` of raw captions, which are tokenized here. Raises ValueError as `check_ids`
    does.
    """
    return token_measures(*tokenized(predictions, references))


def token_measures(predictions: Predictions, references: References) -> list[Measure]:
    """BLEU-1 ... BLEU-4 and ROUGE-L in [0, 1] and CIDEr-D in [0, 10] of tokenized captions.

    A resample of CIDEr-D keeps the document frequencies of the whole set. Raises ValueError as
    `check_ids` does.
    """
    hypotheses, groups = aligned(predictions, references)
    corpus = count_corpus(hypotheses, groups)
    rouge = [rouge_l_score(*pair) for pair in zip(hypotheses, groups, strict=True)]
    return [
        _bleu_measure(bleu_of_corpus(corpus)),
        mean_of("ROUGE-L", np.array(rouge)),
        mean_of("CIDEr-D", cider_of_corpus(corpus)),
    ]


def _bleu_measure(statistics: BleuStatistics) -> Measure:
    fields = [np.asarray(field, np.float64) for field in statistics]
    names = tuple(f"BLEU-{n + 1}" for n in range(fields[0].shape[1]))

    def value(weights: Weights) -> np.ndarray:
        weights = np.ones(len(fields[2])) if weights is None else weights.astype(np.float64)
        # sums of whole numbers: exact in any order
        return bleu_from_statistics(BleuStatistics(*(weights @ field for field in fields)))

    return Measure(names, len(fields[2]), value)


def caption_metrics(
    predictions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]
) -> dict[str, float]:
    """BLEU-1 ... BLEU-4 and ROUGE-L in [0, 1] and CIDEr-D in [0, 10] of raw captions, which are
    tokenized here.

    Raises ValueError, naming ids, if there are no predictions, if the ids differ, if one has no
    reference, or if a prediction is not a string.
    """
    measures = caption_measures(predictions, references)
    return {
        name: float(value)
        for measure in measures
        for name, value in zip(measure.names, measure.value(None), strict=True)
    }
