"""CLIP pre-training (arXiv:2103.00020).

    python launch.py --config=configs/retrieval/clip.py --workdir=runs/clip

ViT-B/32 and its text tower: 151,277,313 parameters (`:large`, L/14: 427,616,513). The paper's
recipe (from memory): 400 million pairs, 32 epochs, batch 32,768, Adam (0.9, 0.98), learning rate
5e-4, 2,000 steps of warmup and a cosine, weight decay 0.2, random square crops, temperature clipped
at 100. Published evaluation of B/32 (open_clip): ImageNet zero-shot 63.3, Flickr30k R@1 78.9 /
58.8, COCO 50.1 / 30.4.
What differs: the 400 million pairs are not public; this trains on COCO captions and expects none
of these numbers. `:folder=PATH` fine-tunes a published folder instead.
"""

from ml_collections import ConfigDict

from configs import common

LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
LARGE |= dict(intermediate_size=4096, patch_size=14, image_size=224)
LARGE_TEXT = dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: large, ViT-L/14; folder, a published checkpoint to start from; smoke; those of
    `common.at_scale`.
    """
    arg = common.parse_arg(arg, large=False, folder="", smoke=False, **common.SCALE)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32_768
    config.total_epochs = 32
    text, vision, size = {}, dict(patch_size=32, image_size=224), 512
    if arg.large:
        text, vision, size = LARGE_TEXT, LARGE, 768
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=32)
        vision, size = TINY | dict(patch_size=8, image_size=32), 32
    described = dict(text_config=text, vision_config=vision, projection_dim=size)
    config.model = common.published("clip", described) | common.CLIP_STATISTICS
    config.model.contrast.max_scale = 100.0
    config.tasks = dict(retrieval=dict(length=32 if arg.smoke else 77))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=vision["image_size"], fit="crop"),
        augment=dict(crop_scale=(0.9, 1.0), crop_ratio=(1.0, 1.0)),
    )
    common.fine_tune(config, arg.folder, name="bpe", size=49_408, lower=True)
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val"), every_epochs=5))
    config.optimizer = common.adamw(
        5e-4, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6, clip_norm=None
    )
    config.schedule = dict(name="cosine", warmup_steps=2000)
    common.at_scale(config, arg)
    return common.shrink(config) if arg.smoke else config
