"""CLIP pre-training (arXiv:2103.00020).

    python launch.py --config=configs/retrieval/clip.py --workdir=runs/clip

ViT-B/32 and its text tower: 151,277,313 parameters; `:patch=16`, ViT-B/16: 149,620,737; `:large`,
ViT-L/14: 427,616,513; `:large,res=336`: 427,944,193; `:rn50`, the ResNet-50 with attention pooling:
102,007,137. The paper's recipe (from memory): 400 million pairs, 32 epochs, batch 32,768, Adam
(0.9, 0.98; ResNets 0.999), learning rate 5e-4 (L/14 4e-4), 2,000 steps of warmup and a cosine,
weight decay 0.2, random square crops, temperature clipped at 100; at 336 pixels one epoch more,
which begins with L/14 (`:large,res=336,folder=PATH`). Published evaluation (open_clip's tables):

            ImageNet zero-shot  Flickr30k R@1  COCO R@1
    RN50    59.8                80.0 / 57.4    48.8 / 28.5
    B/32    63.3                78.9 / 58.8    50.1 / 30.4
    B/16    68.3                82.2 / 62.2    52.4 / 33.1
    L/14    75.5                85.2 / 65.0    56.3 / 36.5
    @336    76.6                87.7 / 66.9    57.9 / 37.1

What differs: the 400 million pairs are not public; this trains on COCO captions and expects none
of these numbers. Batch statistics of `:rn50` are constants, those of the folder if there is one.
`:folder=PATH` fine-tunes a published folder instead (`:rn50`: one of open_clip).
"""

from ml_collections import ConfigDict

from configs import common

LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
LARGE |= dict(intermediate_size=4096, patch_size=14)
LARGE_TEXT = dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: patch, 32 or 16, of ViT-B; large, ViT-L/14; res, its pixels, 224 or 336; rn50, a
    ResNet; folder, a published checkpoint to start from; smoke; those of `common.at_scale`.
    """
    words = dict(patch=32, large=False, res=224, rn50=False, folder="", smoke=False)
    arg = common.parse_arg(arg, **words, **common.SCALE)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32_768
    config.total_epochs = 1 if arg.res > 224 else 32
    size = 32 if arg.smoke else arg.res
    config.model = (resnet if arg.rn50 else vit)(arg, size) | common.CLIP_STATISTICS
    config.model.contrast.max_scale = 100.0
    config.tasks = dict(retrieval=dict(length=32 if arg.smoke else 77))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=size, fit="crop"),
        augment=dict(crop_scale=(0.9, 1.0), crop_ratio=(1.0, 1.0)),
    )
    common.fine_tune(config, arg.folder, name="bpe", size=49_408, lower=True)
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val"), every_epochs=5))
    rate, betas = 4e-4 if arg.large else 5e-4, (0.9, 0.999) if arg.rn50 else (0.9, 0.98)
    config.optimizer = common.adamw(rate, weight_decay=0.2, betas=betas, eps=1e-6, clip_norm=None)
    config.schedule = dict(name="cosine", warmup_steps=2000)
    common.at_scale(config, arg)
    return config


def vit(arg, size):
    """A ViT and the text tower of its size, described as transformers describes it."""
    text, vision, width = {}, dict(patch_size=arg.patch), 512
    if arg.large:
        text, vision, width = LARGE_TEXT, LARGE, 768
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=32)
        vision, width = TINY | dict(patch_size=8), 32
    vision = vision | dict(image_size=size)
    described = dict(text_config=text, vision_config=vision, projection_dim=width)
    return common.published("clip", described)


def resnet(arg, size):
    """ResNet-50 with three convolutions before its stages and attention pooling, as open_clip
    describes it.
    """
    vision = dict(layers=[3, 4, 6, 3], width=64, patch_size=None, image_size=size)
    text, width = dict(context_length=77, vocab_size=49_408, width=512, heads=8, layers=12), 1024
    if arg.smoke:
        vision |= dict(layers=[1, 1, 1, 1], width=8)
        text, width = dict(context_length=32, vocab_size=512, width=32, heads=2, layers=2), 32
    described = dict(embed_dim=width, quick_gelu=True, vision_cfg=vision, text_cfg=text)
    return common.published("open_clip", dict(model_cfg=described))
