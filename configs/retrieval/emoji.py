"""Drawings and their names in one space: trained on OpenMoji, tested on Noto.

    python -m vlm_jax.data.prepare emoji
    python launch.py --config=configs/retrieval/emoji.py --workdir=runs/emoji_retrieval

Both towers from scratch, on the 1,316 OpenMoji drawings of seen concepts. The four evaluations are
the table of seen / unseen concepts x drawing style. 21 of the 171 unseen concepts have a seen twin
of another gender; `:holdout=subgroup` holds out whole subgroups instead, the harder split. What one
run of ten minutes on two CPU cores gave, with 95 % intervals:

    concepts   drawn by   n      image to text R@1      text to image R@1      chance
    seen       OpenMoji   1,316  0.815 (0.794, 0.835)   0.839 (0.821, 0.857)   0.001   (trained on)
    seen       Noto       1,316  0.029 (0.021, 0.038)   0.035 (0.026, 0.045)   0.001
    unseen     OpenMoji   171    0.240 (0.175, 0.304)   0.269 (0.205, 0.339)   0.006
    unseen     Noto       171    0.047 (0.018, 0.076)   0.023 (0.006, 0.047)   0.006

Another artist's hand costs far more than an unknown concept. With encoders that saw the world
first, see lit_kit.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: steps; holdout, "concept" or "subgroup"; smoke."""
    arg = common.parse_arg(arg, steps=1000, holdout="concept", smoke=False)
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
    config.expected = {
        "seen_openmoji/image_to_text/R@1": (0.81, 0.06),
        "unseen_openmoji/image_to_text/R@1": (0.24, 0.09),
        "seen_noto/text_to_image/R@5": (0.10, 0.04),
    }
    return common.shrink(config) if arg.smoke else config
