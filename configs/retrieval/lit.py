r"""LiT, locked-image tuning (arXiv:2111.07991).

    python launch.py --config=configs/retrieval/lit.py --workdir=runs/lit \
        --config.init=PATH

PATH: a published ViT folder such as google/vit-base-patch16-224; its tower is locked. ViT-B/16 and
BERT-base with a 768-d head, as in LiT-B16B; 196,460,545 parameters here. The recipe: learning rate
1e-3, weight decay 1e-4, batch 16,384 (these three from memory), 30,000 steps on CC12M and YFCC100M
reach ImageNet 72.1 and COCO R@1 49.4 / 31.1; B16B_2 takes 60,000 steps to 73.9. The smallest public
row, COCO alone (coco_B16B), reaches 20.7 and 47.2 / 32.1.
What differs: this trains on COCO captions with a batch of 4,096; without a folder the locked tower
is noise.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: smoke."""
    arg = common.parse_arg(arg, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    config.total_steps = 5000
    vision = dict(name="vit", pooling="cls", epsilon=1e-12)
    if arg.smoke:
        vision |= dict(patch=8, width=32, layers=2, heads=2, mlp_width=64, image_size=32)
    config.model = dict(
        vision=vision,
        text=common.bert(arg.smoke, dropout=0.0),
        contrast=dict(size=32 if arg.smoke else 768, scale=10.0),
    )
    config.tasks = dict(retrieval=dict(length=32))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=32 if arg.smoke else 224, method="bilinear"),
        tokenizer=dict(name="wordpiece", size=30_522),
    )
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val")))
    config.optimizer = common.adamw(1e-3, weight_decay=1e-4, frozen=["vision"])
    config.schedule = dict(name="cosine", warmup_percent=10)
    return common.shrink(config) if arg.smoke else config
