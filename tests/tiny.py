"""A run small enough for tests with everything: three tasks, dropout, augmentation, averages."""

from configs import common
from vlm_jax.data import scenes

BLOCK = {"heads": 2, "mlp_width": 16}
TEXT = {"vocab": 128, "width": 16, "layers": 1, "max_length": 48, **BLOCK}


def config(**overrides):
    """Captioning, VQA and retrieval on 64 scenes of 32 pixels; every key may be replaced."""
    test = common.scenes("test", length=11, size=32, captions=2, questions=2)
    return {
        "seed": 3,
        "batch_size": 8,
        "total_steps": 6,
        "model": {
            "vision": {"name": "vit", "patch": 8, "layers": 1, "width": 16, "image_size": 32}
            | {"class_token": False, "pooling": "mean", "dropout": 0.1}
            | BLOCK,
            "text": {"name": "transformer", "dropout": 0.1, **TEXT},
            "fusion": {"name": "attention", "heads": 2},
            "decoder": {"name": "causal_lm", "memory": "attend", "dropout": 0.1, **TEXT},
            "contrast": {"size": 8},
            "classify": {},
        },
        "tasks": {
            "captioning": {"length": 24, "label_smoothing": 0.1},
            "vqa": {"answers": scenes.answers()},
            "retrieval": {"length": 24, "weight": 0.5},
        },
        "data": {
            "train": common.scenes("train", length=64, size=32),
            "image": {"size": 32},
            "augment": {"crop_scale": (0.6, 1.0), "flip": "swap_words", "brightness": 0.2},
            "tokenizer": {"name": "word", "examples": 64},
        },
        "evals": {
            "captions": {"task": "captioning", "data": test},
            "answers": {"task": "vqa", "data": test},
            "search": {"task": "retrieval", "data": test},
        },
        "optimizer": {"name": "adamw", "learning_rate": 1e-2, "clip_norm": 1.0, "ema": 0.9},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "checkpoint": {"every_steps": 2},
        "logs": {"every_steps": 1, "tensorboard": {}},
    } | overrides


def captioner(**overrides):
    """The captioning part of `config` alone: the quickest to compile."""
    whole = config()
    model = {part: whole["model"][part] for part in ("vision", "decoder")}
    tasks = {"captioning": whole["tasks"]["captioning"]}
    return whole | {"model": model, "tasks": tasks, "evals": {}} | overrides
