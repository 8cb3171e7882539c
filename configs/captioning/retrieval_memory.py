"""Captions written from an image and from what similar images are called, as Features beside the
image's.

    python -m vlm_jax.data.prepare emoji
    python launch.py --config=configs/captioning/retrieval_memory.py --workdir=runs/beside
    python launch.py --mode=eval --workdir=runs/beside --k=0
    python launch.py --mode=eval --workdir=runs/beside --memory=ANOTHER_MEMORY

A text encoder reads the names of the k nearest drawings, and the decoder attends to its Features
and to the image's alike (EXTRA, arXiv:2302.08268, whose encoder reads both together). Otherwise as
configs/captioning/retrieval_prompt.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: steps; k (0: no neighbours); encoder; data, "emoji" or "scenes"; width; smoke."""
    arg = common.parse_arg(
        arg, steps=2000, k=4, encoder="pixels", data="emoji", width=192, smoke=False
    )
    width, vocab = (32, 512) if arg.smoke else (arg.width, 4096)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = arg.steps
    text = dict(vocab=vocab, width=width, heads=4, mlp_width=2 * width, max_length=64, dropout=0.1)
    config.model = dict(
        vision=common.small_resnet(width),
        connector=dict(name="mlp", widths=(width,), norm="layer", positions=True),
        decoder=dict(name="causal_lm", memory="attend", layers=2, **text),
    )
    section = dict(length=30 if arg.data == "scenes" else 16, label_smoothing=0.1)
    if arg.k:
        config.model.text = dict(name="transformer", layers=1, **text)
        section["retrieved"] = dict(k=arg.k, to="memory", length=section["length"], fewer=0.5)
    config.tasks = dict(captioning=section)
    config.optimizer = common.adamw(1e-3, weight_decay=0.05, ema=0.995)
    config.schedule = dict(name="cosine", warmup_percent=5)
    config.data = dict(
        augment=common.of_drawings(),
        tokenizer=dict(name="word", size=vocab),
    )
    common.with_neighbours(config, arg)
    return config
