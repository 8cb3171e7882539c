"""A ViT and a prefix language model on COCO captions, in the shape of GIT (arXiv:2205.14100).

    tfds build coco_captions --file_format=array_record   (once, where TensorFlow is installed)
    python launch.py --config=configs/captioning/coco.py --workdir=runs/coco_captions

ViT-B/16 at 224 pixels, six decoder layers of width 768. GIT-base reports CIDEr 131.4 on COCO after
pre-training on 4 million images; from scratch on COCO alone expect far less. No number is claimed
here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: res, the image side in pixels; smoke."""
    arg = common.parse_arg(arg, res=224, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 30
    vision = dict(patch=16, width=768, layers=12, heads=12, mlp_width=3072, image_size=arg.res)
    decoder = dict(vocab=16_384, width=768, layers=6, heads=12, mlp_width=3072, max_length=256)
    if arg.smoke:
        arg.res = 32
        vision = dict(patch=8, width=32, layers=2, heads=2, mlp_width=64, image_size=32)
        decoder = dict(vocab=512, width=32, layers=2, heads=2, mlp_width=64, max_length=64)
    config.model = dict(
        vision=dict(name="vit", drop_path=0.1) | vision,
        decoder=dict(name="causal_lm", dropout=0.1) | decoder,
    )
    config.tasks = dict(captioning=dict(length=32, label_smoothing=0.1))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=arg.res),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words"),
        tokenizer=dict(name="bpe", size=16_384, lower=True, examples=82_783),
    )
    config.evals = dict(
        val=dict(task="captioning", data=common.coco("val"), options=dict(beams=4), every_epochs=5)
    )
    config.optimizer = common.adamw(5e-4, weight_decay=0.05, betas=(0.9, 0.98), ema=0.999)
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
