"""A convolutional image encoder and a transformer over the question, joined by attention.

    python launch.py --config=configs/vqa/cnn_transformer.py --workdir=runs/cnn_transformer

Question tokens attend to the image's feature map (as in arXiv:1511.02274, in transformer form).
Runs on the built-in scenes; set config.data.train and config.evals.test.data for your own.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import scenes


def get_config(arg=None):
    """Arguments: steps; smoke."""
    arg = common.parse_arg(arg, steps=1500, smoke=False)
    width = 32 if arg.smoke else 128
    block = dict(heads=4, mlp_width=2 * width)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = arg.steps
    config.model = dict(
        vision=common.small_resnet(width),
        text=dict(name="transformer", vocab=512, width=width, layers=2, max_length=32, **block),
        fusion=dict(name="attention", layers=2, **block),
        classify=dict(hidden=width),
    )
    config.tasks = dict(vqa=dict(length=24, answers=scenes.answers()))
    config.data = dict(
        train=common.scenes("train"),
        image=dict(size=64),
        tokenizer=dict(name="word", examples=1000),
    )
    config.evals = dict(test=dict(task="vqa", data=common.scenes("test")))
    config.optimizer = common.adamw(1e-3)
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
