"""SigLIP pre-training (arXiv:2303.15343).

    python launch.py --config=configs/retrieval/siglip.py --workdir=runs/siglip

ViT-B/16 with attention pooling and a bidirectional text tower: 203,155,970 parameters (`:so400m`,
877,960,498 at 384 pixels). The paper's recipe (from memory): WebLI, batch 32,768, learning rate
1e-3, weight decay 1e-4, Adam (0.9, 0.95), temperature 10 and bias -10 at the start. Published: B/16
ImageNet zero-shot 76.0, Flickr30k R@1 89.1 / 74.7, COCO 65.7 / 47.8.
What differs: WebLI is not public; this trains on COCO captions and expects none of these numbers.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SO400M = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16)
SO400M |= dict(intermediate_size=4304)


def get_config(arg=None):
    """Arguments: so400m, the larger model; res, its image side; folder, a published checkpoint to
    start from; smoke; those of `common.at_scale`.
    """
    arg = common.parse_arg(arg, so400m=False, res=384, folder="", smoke=False, **common.SCALE)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32_768
    config.total_epochs = 100
    text, vision = {}, dict(image_size=224, patch_size=16)
    if arg.so400m:
        text, vision = SO400M, SO400M | dict(image_size=arg.res, patch_size=14)
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=32)
        vision = TINY | dict(image_size=32, patch_size=8)
    described = dict(text_config=text, vision_config=vision)
    config.model = common.published("siglip", described)
    config.model.contrast.update(scale=10.0, bias=-10.0)
    config.tasks = dict(retrieval=dict(length=32 if arg.smoke else 64, loss_name="sigmoid"))
    config.data = dict(train=common.coco("train"), image=dict(size=vision["image_size"]))
    common.fine_tune(config, arg.folder, name="bpe", size=32_000, lower=True)
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val"), every_epochs=10))
    config.optimizer = common.adamw(1e-3, weight_decay=1e-4, betas=(0.9, 0.95))
    config.schedule = dict(name="cosine", warmup_percent=10)
    common.at_scale(config, arg)
    return config
