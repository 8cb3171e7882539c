"""Questions answered from an image and from what is said about similar images.

    python launch.py --config=configs/vqa/retrieval.py --workdir=runs/vqa_neighbours
    python launch.py --mode=eval --workdir=runs/vqa_neighbours --k=0

The captions of the k nearest scenes become Features of the text encoder, and stand beside the
image's where the fusion looks for what the question asks about (as retrieved knowledge does in
REVEAL, arXiv:2212.05221). Neighbours are found by `encoder`: "pixels", or the workdir of a run.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import scenes


def get_config(arg=None):
    """Arguments: steps; k, neighbours (0: none); encoder; width; smoke."""
    arg = common.parse_arg(arg, steps=2000, k=4, encoder="pixels", width=128, smoke=False)
    width, vocab = (32, 512) if arg.smoke else (arg.width, 512)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    block = dict(heads=4, mlp_width=2 * width, activation="relu")
    config.model = dict(
        vision=common.small_resnet(width // 2),
        connector=dict(name="mlp", widths=(width,), norm="layer", positions=True),
        text=dict(name="transformer", vocab=vocab, width=width, layers=2, max_length=32, **block),
        fusion=dict(name="attention", layers=2, **block),
        classify=dict(hidden=width, activation="relu"),
    )
    section = dict(answers=scenes.answers(), length=16)
    if arg.k:
        section["retrieved"] = dict(k=arg.k, to="memory", length=30, fewer=0.5)
    config.tasks = dict(vqa=section)
    config.optimizer = common.adamw(1e-3)
    config.schedule = dict(name="cosine", warmup_steps=50)
    config.data = dict(tokenizer=dict(name="word", examples=1000))
    common.with_neighbours(config, dict(arg, data="scenes"), task="vqa")
    return config
