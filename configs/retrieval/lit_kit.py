"""LiT (arXiv:2111.07991) with real weights and both towers locked: an EfficientNet-Lite0 that
knows ImageNet learns to speak the language of a MiniLM that knows sentences, from 1,316 drawings.

    python -m vlm_jax.data.prepare kit
    python -m vlm_jax.data.prepare emoji --size 224
    python launch.py --config=configs/retrieval/lit_kit.py --workdir=runs/lit_kit

26,427,905 parameters, of which 491,520 are trained, on vectors that the towers computed once: one
matrix from the space of images into that of texts, which stays as it is, so that what the sentences
know of each other is not forgotten. The protocol is that of configs/retrieval/emoji.py: trained on
OpenMoji, tested on Noto; `:holdout=subgroup` for the harder split. `python -m benchmarks.lit_kit
runs/lit_kit` prints the ridge map between the same vectors beside it, and Tux Paint's stamps in
eleven languages. What differs: the paper trains the text tower.

R@1/5/10 of images, then of texts, after 400 steps, ridge on the right; better in 23 of 24 columns:
    seen OpenMoji (fit)  88.9 99.2 99.7  90.0 99.4 99.9    81.5 95.5 97.3  86.4 98.3 99.5
    seen Noto            14.2 29.9 38.8  15.3 34.3 44.8     7.2 18.5 23.9  11.6 26.8 34.7
    unseen OpenMoji      38.6 63.2 69.6  40.9 60.2 72.5    34.5 57.3 63.7  39.8 63.7 70.8
    unseen Noto          12.9 32.7 50.3  15.8 42.1 49.7     8.2 26.3 39.8  11.7 34.5 45.6
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: steps; holdout, "concept" or "subgroup"; smoke."""
    arg = common.parse_arg(arg, steps=400, holdout="concept", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    config.total_steps = arg.steps
    parts = common.kit(arg.smoke)
    config.model = dict(
        vision=parts["vision"],
        text=parts["text"],
        contrast=dict(size=parts["text"]["width"], scale=20.0, project=("image",), dropout=0.7),
        **common.LITE_STATISTICS,
    )
    config.tasks = dict(retrieval=dict(length=24))
    folders = dict(vision=common.kit_folder("efficientnet_lite0"), text=common.kit_folder("minilm"))
    image = dict(size=32 if arg.smoke else 224)
    emoji = lambda vendor, split: dict(
        name="features",
        source=dict(
            name="emoji",
            vendor=vendor,
            split=split,
            size=224,
            texts=("tags",),
            holdout=arg.holdout,
        ),
        image=image,
        length=24,
        **folders,
    )
    config.data = dict(
        train=emoji("openmoji", "seen"),
        image=image,
        tokenizer=dict(name="published", folder=folders["text"]),
    )
    config.evals = {
        f"{split}_{vendor}": dict(task="retrieval", data=emoji(vendor, split))
        for split in ("seen", "unseen")
        for vendor in ("openmoji", "noto")
    }
    if not arg.smoke:
        config.init = dict(parts=folders, skip=["vision/head"])
    locked = ["vision", "text", "contrast_head/logit_scale"]
    config.optimizer = common.adamw(1e-3, weight_decay=0.0, frozen=locked)
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
