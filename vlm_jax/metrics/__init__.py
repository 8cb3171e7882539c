"""Metrics on strings and NumPy arrays. Nothing here knows a model; each file names its official
scorer and deviations.
"""

from vlm_jax.metrics.attributes import attribute_f1, attribute_measure
from vlm_jax.metrics.bootstrap import Score, bootstrap_interval, mean_of, score
from vlm_jax.metrics.calibration import calibration_measure
from vlm_jax.metrics.captions import caption_measures, caption_metrics
from vlm_jax.metrics.cider import cider
from vlm_jax.metrics.classification import classification_measure, classification_metrics
from vlm_jax.metrics.clip_score import clip_scores, reference_clip_scores
from vlm_jax.metrics.diversity import diversity
from vlm_jax.metrics.identity import merge
from vlm_jax.metrics.ptb_tokenizer import ptb_tokenize
from vlm_jax.metrics.recall import retrieval_metrics, retrieval_scores
from vlm_jax.metrics.rouge import rouge_l
from vlm_jax.metrics.scoring import compare, score_file
from vlm_jax.metrics.text_answers import answer_scores
from vlm_jax.metrics.vqa_accuracy import vqa_accuracy, vqa_accuracy_scores
from vlm_jax.metrics.zero_shot import class_embeddings, zero_shot_scores

__all__ = [
    "Score",
    "answer_scores",
    "attribute_f1",
    "attribute_measure",
    "bootstrap_interval",
    "calibration_measure",
    "caption_measures",
    "caption_metrics",
    "cider",
    "class_embeddings",
    "classification_measure",
    "classification_metrics",
    "clip_scores",
    "compare",
    "diversity",
    "mean_of",
    "merge",
    "ptb_tokenize",
    "reference_clip_scores",
    "retrieval_metrics",
    "retrieval_scores",
    "rouge_l",
    "score",
    "score_file",
    "vqa_accuracy",
    "vqa_accuracy_scores",
    "zero_shot_scores",
]
