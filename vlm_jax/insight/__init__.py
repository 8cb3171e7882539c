"""Seeing why: which part of a picture, and which word, made a model say what it says.

Maps by attention (direct, rollout, gradient-weighted) and by gradients (Grad-CAM, HiResCAM,
gradient x input, integrated gradients) for every model here, leave-one-out for words, and the
pointing game, which tells how far maps can be believed. No model knows that it is explained: see
`vlm_jax.models.watch`.
"""

from vlm_jax.insight.explain import METHODS, Explainer, Explanation, explain

__all__ = ["METHODS", "Explainer", "Explanation", "explain"]
