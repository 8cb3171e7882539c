"""ALIGN-type: any two towers and a softmax over the batch (arXiv:2102.05918).

    python launch.py --config=configs/retrieval/align.py --workdir=runs/align
    python launch.py --config=configs/retrieval/align.py:efficientnet --workdir=runs/align_b

The paper joins EfficientNet-L2 and BERT-large; here ResNet-50 and BERT-base, 134,792,513
parameters. `:efficientnet` is the published reproduction, EfficientNet-B7 and BERT-base, of which
only the text is projected: 171,527,249, its 172,117,841 but for a layer of BERT that it does not
use. `:large` has BERT-large, 360,616,001. Any other encoder of ours stands there as well: a section
of config.model each. The reproduction's folders (align) load as they are, and those of two
published towers (vision-text-dual-encoder): ViT, CLIP, SigLIP or ResNet beside BERT, CLIP or
SigLIP.
The paper's recipe (from memory): 1.8 billion noisy pairs, batch 16,384, LAMB with learning rate
1e-3 and weight decay 1e-5, 1.2 million steps of which 10,000 are warmup, a linear decay, pictures
of 289 pixels cut out of 346, label smoothing 0.1, a learned temperature that starts at 1. It
reports ImageNet 76.4, Flickr30k R@1 88.6 / 75.7 and COCO 58.6 / 45.6 (these two from memory).
What differs: the towers, no stochastic depth, pictures cut out at any size from half of the area
on, and COCO captions for the noisy pairs, 100 times: no number is expected.
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
    size = dict(width=1024, layers=24, heads=16, mlp_width=4096)
    eyes = efficientnet(arg.smoke) if arg.efficientnet else resnet(arg.smoke)
    words = dict(dropout=0.0) | ({} if arg.smoke or not arg.large else size)
    space = dict(size=32 if arg.smoke else 640, scale=1.0)
    if arg.efficientnet:
        words |= dict(pooling="first", pooler="none")
        space |= dict(project=["text"], project_bias=True, divide=True)
    config.model = eyes | dict(text=common.bert(arg.smoke, **words), contrast=space)
    config.tasks = dict(retrieval=dict(length=32 if arg.smoke else 64, label_smoothing=0.1))
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
    """EfficientNet-B7 (arXiv:1905.11946) up to its last stage, whose statistics are learned, for
    pixels in [-1, 1].
    """
    size = dict(stem=64, width=2.0, stages=(4, 7, 7, 10, 10, 13, 4))
    if smoke:
        size = dict(stem=8, width=1.0, rows=((3, 1, 1, 8, 1), (3, 2, 6, 32, 2)))
    fields = dict(head=None, squeeze=0.25, activation="silu", frozen_statistics=False)
    halves = dict(image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
    return dict(vision=dict(name="efficientnet") | size | fields) | halves
