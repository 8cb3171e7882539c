"""One small model that captions, answers and retrieves, trained in minutes on built-in scenes.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Four and a half minutes on 2 CPU cores, installation included. `expected` holds what one such run
gave and what `--mode=reproduce` compares with: the question-only baseline of VQA is 0.39, chance
of retrieval among 256 is 0.004, and captions of another picture have an attribute F1 of 0.04.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import scenes


def get_config(arg=None):
    """Arguments: steps, width of every part, smoke."""
    arg = common.parse_arg(arg, steps=800, width=128, smoke=False)
    width, vocab = (32, 512) if arg.smoke else (arg.width, 512)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    block = dict(heads=4, mlp_width=2 * width)
    config.model = dict(
        vision=common.small_vit(width),
        text=dict(name="transformer", vocab=vocab, width=width, layers=2, max_length=32, **block),
        fusion=dict(name="attention", layers=2, **block),
        decoder=dict(
            name="cross_attention", vocab=vocab, width=width, layers=2, max_length=32, **block
        ),
        contrast=dict(size=width),
        classify=dict(hidden=width),
    )
    config.tasks = dict(
        captioning=dict(length=30),
        vqa=dict(answers=scenes.answers(), length=16),
        retrieval=dict(length=30, weight=0.5),
    )
    config.data = dict(
        train=common.scenes("train"),
        image=dict(size=64),
        tokenizer=dict(name="word", examples=1000),
    )
    test = common.scenes("test")
    config.evals = dict(
        captioning=dict(task="captioning", data=dict(test, length=256)),
        vqa=dict(task="vqa", data=test),
        retrieval=dict(task="retrieval", data=dict(test, length=256, captions=1)),
    )
    config.optimizer = common.adamw(1e-3)
    config.schedule = dict(name="cosine", warmup_steps=100)
    config.expected = {
        "vqa/accuracy": (0.57, 0.05),
        "retrieval/image_to_text/R@1": (0.57, 0.12),
        "captioning/attribute_f1": (0.40, 0.10),
    }
    return common.shrink(config) if arg.smoke else config
