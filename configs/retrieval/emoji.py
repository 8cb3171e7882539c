"""Drawings and their names in one space: trained on OpenMoji, tested on Noto.

    python -m vlm_jax.data.prepare emoji
    python launch.py --config=configs/retrieval/emoji.py --workdir=runs/emoji_retrieval

Both towers from scratch. The four evaluations are the table of seen / unseen concepts x drawing
style. 21 of the 171 unseen concepts have a seen twin of another gender; `:holdout=subgroup` holds
out whole subgroups instead, the harder split. Chance stands beside each.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: steps; holdout, "concept" or "subgroup"; smoke."""
    arg = common.parse_arg(arg, steps=2000, holdout="concept", smoke=False)
    width, vocab = (32, 512) if arg.smoke else (192, 4096)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    config.total_steps = arg.steps
    text = dict(
        vocab=vocab, width=width, layers=2, heads=4, mlp_width=2 * width, max_length=32, dropout=0.1
    )
    config.model = dict(
        vision=common.small_resnet(width),
        text=dict(name="transformer", pooling="mean") | text,
        contrast=dict(size=width),
    )
    config.tasks = dict(retrieval=dict(length=24))
    emoji = lambda vendor, split: dict(
        name="emoji", vendor=vendor, split=split, texts=("tags",), holdout=arg.holdout
    )
    config.data = dict(
        train=emoji("openmoji", "seen"),
        image=dict(size=64),
        augment=common.of_drawings(),
        tokenizer=dict(name="word", size=vocab),
    )
    config.evals = {
        f"{split}_{vendor}": dict(task="retrieval", data=emoji(vendor, split))
        for split in ("seen", "unseen")
        for vendor in ("openmoji", "noto")
    }
    config.optimizer = common.adamw(1e-3, weight_decay=0.05, ema=0.995)
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
