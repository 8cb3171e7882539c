"""ALIGN-type: any two towers and a softmax over the batch (arXiv:2102.05918).

    python launch.py --config=configs/retrieval/align.py --workdir=runs/align

The paper joins EfficientNet-L2 and BERT-large; here ResNet-50 and BERT-base. Its recipe (from
memory): 1.8 billion noisy pairs, batch 16,384, LAMB with learning rate 1e-3 and weight decay 1e-5,
1.2 million steps, label smoothing 0.1, a learned temperature that starts at 1. It reports ImageNet
76.4 and COCO R@1 58.6 / 45.6.
What differs: the towers, no label smoothing, and COCO captions for the noisy pairs: no number is
expected.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: smoke."""
    arg = common.parse_arg(arg, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16_384
    config.total_epochs = 100
    config.model = dict(
        vision=common.resnet50(arg.smoke),
        text=common.bert(arg.smoke, dropout=0.0),
        contrast=dict(size=32 if arg.smoke else 640, scale=1.0),
        **common.IMAGENET_STATISTICS,
    )
    config.tasks = dict(retrieval=dict(length=32 if arg.smoke else 64))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=32 if arg.smoke else 289, fit="crop"),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words"),
        tokenizer=dict(name="wordpiece", size=30_522),
    )
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val"), every_epochs=10))
    config.optimizer = common.adamw(1e-3, weight_decay=1e-5, name="lamb", clip_norm=None)
    config.schedule = dict(name="linear", warmup_percent=1)
    return common.shrink(config) if arg.smoke else config
