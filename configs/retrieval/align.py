"""ALIGN-type: any two towers and a softmax over the batch (arXiv:2102.05918).

    python launch.py --config=configs/retrieval/align.py --workdir=runs/align
    python launch.py --config=configs/retrieval/align.py:efficientnet --workdir=runs/align_b

The paper joins EfficientNet-L2 and BERT-large; here ResNet-50 and BERT-base, 134,792,513
parameters. `:efficientnet` has EfficientNet-Lite4 in the ResNet's place, 122,518,529; `:large` has
BERT-large, 360,616,001. Any other encoder of ours stands there as well: a section of config.model
each. Folders of two published towers (vision-text-dual-encoder) load as they are: ViT, CLIP, SigLIP
or ResNet beside BERT, CLIP or SigLIP.
The paper's recipe (from memory): 1.8 billion noisy pairs, batch 16,384, LAMB with learning rate
1e-3 and weight decay 1e-5, 1.2 million steps of which 10,000 are warmup, a linear decay, pictures
of 289 pixels cut out of 346, label smoothing 0.1, a learned temperature that starts at 1. It
reports ImageNet 76.4, Flickr30k R@1 88.6 / 75.7 and COCO 58.6 / 45.6 (these two from memory).
What differs: the towers, no label smoothing, pictures cut out at any size from half of the area on,
and COCO captions for the noisy pairs, 100 times: no number is expected.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: efficientnet, in place of the ResNet; large, BERT-large; smoke."""
    arg = common.parse_arg(arg, efficientnet=False, large=False, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16_384
    config.total_epochs = 100
    size = dict(width=1024, layers=24, heads=16, mlp_width=4096) if arg.large else {}
    eyes = efficientnet(arg.smoke) if arg.efficientnet else resnet(arg.smoke)
    config.model = eyes | dict(
        text=common.bert(arg.smoke, dropout=0.0, **({} if arg.smoke else size)),
        contrast=dict(size=32 if arg.smoke else 640, scale=1.0),
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


def resnet(smoke):
    """ResNet-50."""
    return dict(vision=common.resnet50(smoke)) | common.IMAGENET_STATISTICS


def efficientnet(smoke):
    """EfficientNet-Lite4."""
    size = dict(stages=(1, 1), stem=8, head=32) if smoke else dict(width=1.4, depth=1.8)
    return dict(vision=dict(name="efficientnet_lite") | size) | common.LITE_STATISTICS
