"""Naming drawings: trained on OpenMoji, tested on Noto drawings of seen and of unseen concepts.

    python -m vlm_jax.data.prepare emoji
    python launch.py --config=configs/captioning/emoji.py --workdir=runs/emoji_captions

A small ResNet and a transformer decoder from scratch. 1,316 drawings to learn from: a hard, honest
few-shot setting in which the unseen concepts mostly fail; see configs/retrieval/emoji.py for the
protocol.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: steps; smoke."""
    arg = common.parse_arg(arg, steps=2000, smoke=False)
    width, vocab = (32, 512) if arg.smoke else (192, 4096)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = arg.steps
    config.model = dict(
        vision=common.small_resnet(width),
        decoder=dict(
            name="causal_lm",
            memory="attend",
            vocab=vocab,
            width=width,
            layers=2,
            heads=4,
            mlp_width=2 * width,
            max_length=32,
            dropout=0.1,
        ),
    )
    config.tasks = dict(captioning=dict(length=16, label_smoothing=0.1))
    config.data = dict(
        train=dict(name="emoji", vendor="openmoji", split="seen", texts=("label",)),
        image=dict(size=64),
        augment=common.of_drawings(),
        tokenizer=dict(name="word", size=vocab),
    )
    config.evals = {
        f"{split}_{vendor}": dict(
            task="captioning", data=dict(name="emoji", vendor=vendor, split=split, texts=("label",))
        )
        for split in ("seen", "unseen")
        for vendor in ("openmoji", "noto")
    }
    config.optimizer = common.adamw(1e-3, weight_decay=0.05, ema=0.995)
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
