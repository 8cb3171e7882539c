"""A CLIP-shaped dual encoder (arXiv:2103.00020) on COCO captions.

    tfds build coco_captions --file_format=array_record   (once, where TensorFlow is installed)
    python launch.py --config=configs/retrieval/coco.py --workdir=runs/coco_retrieval

ViT-B/16 and a 12-layer text transformer of width 512, as CLIP's, with the sigmoid loss by
`:loss=sigmoid` (SigLIP, arXiv:2303.15343). The paper trains on 400 million pairs with batches of
32,768; COCO has 0.4 million, so no number of the paper is claimed.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: res, the image side in pixels; loss, "softmax" or "sigmoid"; smoke."""
    arg = common.parse_arg(arg, res=224, loss="softmax", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 1024
    config.total_epochs = 30
    vision = dict(patch=16, width=768, layers=12, heads=12, mlp_width=3072, image_size=arg.res)
    text = dict(vocab=16_384, width=512, layers=12, heads=8, mlp_width=2048, max_length=64)
    if arg.smoke:
        arg.res = 32
        vision = dict(patch=8, width=32, layers=2, heads=2, mlp_width=64, image_size=32)
        text = dict(vocab=512, width=32, layers=2, heads=2, mlp_width=64, max_length=64)
    start = dict(scale=10.0, bias=-10.0) if arg.loss == "sigmoid" else {}
    config.model = dict(
        vision=dict(name="vit") | vision,
        text=dict(name="transformer", causal=True, pooling="last") | text,
        contrast=dict(size=32 if arg.smoke else 512) | start,
    )
    config.tasks = dict(retrieval=dict(length=64, loss_name=arg.loss))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=arg.res),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words"),
        tokenizer=dict(name="bpe", size=16_384, lower=True, examples=82_783),
    )
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val"), every_epochs=5))
    config.optimizer = common.adamw(5e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6)
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
