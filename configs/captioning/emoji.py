"""Naming drawings: trained on OpenMoji, tested on Noto drawings of seen and of unseen concepts.

    python -m vlm_jax.data.prepare emoji
    python launch.py --config=configs/captioning/emoji.py --workdir=runs/emoji_captions

A small ResNet and a transformer decoder from scratch, on the 1,316 OpenMoji drawings of seen
concepts; see configs/retrieval/emoji.py for the protocol. What one run of eight minutes on two CPU
cores gave, with 95 % intervals, beside the name of the drawing that precedes it in the list, which
is often of the same kind:

    concepts   drawn by   n      CIDEr-D                another   BLEU-1   another
    seen       OpenMoji   1,316  1.639 (1.523, 1.764)   0.659     0.403    0.272   (trained on)
    seen       Noto       1,316  0.134 (0.098, 0.171)   0.659     0.053    0.272
    unseen     OpenMoji   171    0.269 (0.164, 0.385)   0.135     0.122    0.106
    unseen     Noto       171    0.049 (0.011, 0.100)   0.135     0.033    0.106

A hard, honest setting: with so few drawings to learn from, another artist's are named worse than by
their neighbours in the list.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: steps; smoke."""
    arg = common.parse_arg(arg, steps=1000, smoke=False)
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
