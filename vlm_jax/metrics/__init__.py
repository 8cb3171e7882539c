"""Metrics on strings and NumPy arrays. Nothing here knows a model; each file names its official
scorer and deviations.
"""

from vlm_jax.metrics.attributes import attribute_f1
from vlm_jax.metrics.bleu import bleu
from vlm_jax.metrics.bootstrap import bootstrap_interval
from vlm_jax.metrics.captions import caption_metrics
from vlm_jax.metrics.cider import cider
from vlm_jax.metrics.classification import classification_metrics
from vlm_jax.metrics.ptb_tokenizer import ptb_tokenize
from vlm_jax.metrics.recall import retrieval_metrics
from vlm_jax.metrics.rouge import rouge_l
from vlm_jax.metrics.vqa_accuracy import normalize_answer, vqa_accuracy

__all__ = [
    "attribute_f1",
    "bleu",
    "bootstrap_interval",
    "caption_metrics",
    "cider",
    "classification_metrics",
    "normalize_answer",
    "ptb_tokenize",
    "retrieval_metrics",
    "rouge_l",
    "vqa_accuracy",
]
