"""The caption metrics together, from raw text, as the COCO evaluation server reports them
(arXiv:1504.00325).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_jax.metrics.bleu import bleu
from vlm_jax.metrics.cider import cider
from vlm_jax.metrics.corpus import check_ids
from vlm_jax.metrics.ptb_tokenizer import ptb_tokenize
from vlm_jax.metrics.rouge import rouge_l


def caption_metrics(
    predictions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]
) -> dict[str, float]:
    """BLEU-1 ... BLEU-4 and ROUGE-L in [0, 1] and CIDEr-D in [0, 10] of raw captions, which are
    tokenized here.

    Raises ValueError, naming ids, if there are no predictions, if the ids differ, or if one has no
    reference.
    """
    check_ids(predictions, references)
    found = {key: ptb_tokenize(caption) for key, caption in predictions.items()}
    true = {key: [ptb_tokenize(caption) for caption in references[key]] for key in predictions}
    scores = {f"BLEU-{n}": float(score) for n, score in enumerate(bleu(found, true), start=1)}
    return {**scores, "ROUGE-L": rouge_l(found, true), "CIDEr-D": cider(found, true)}
