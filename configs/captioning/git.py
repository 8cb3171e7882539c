"""GIT-base, fine-tuned for COCO captions (arXiv:2205.14100).

    python launch.py --config=configs/captioning/git.py:folder=PATH --workdir=runs/git

PATH: a published folder such as microsoft/git-base. 176,619,066 parameters. The recipe (from
memory): 10 epochs, batch 512, learning rate 2.5e-6, five times that for the text decoder during
pre-training; the authors' README reports CIDEr 131.35 on the Karpathy test split.
What differs: no SCST; without a folder the model starts from noise, and no number is expected.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512
    config.total_epochs = 10
    text, vision = {}, dict(image_size=224, patch_size=16)
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=64)
        vision = TINY | dict(image_size=32, patch_size=8)
    described = text | dict(vision_config=vision)
    config.model = common.published("git", described) | common.CLIP_STATISTICS
    config.tasks = dict(captioning=dict(length=40))
    config.data = dict(
        train=common.coco("train"), image=dict(size=vision["image_size"], fit="crop")
    )
    common.fine_tune(config, arg.folder, name="wordpiece", size=30_522)
    config.evals = dict(val=dict(task="captioning", data=common.coco("val"), options=dict(beams=4)))
    config.optimizer = common.adamw(2.5e-6, weight_decay=1e-4)
    config.schedule = dict(name="cosine", warmup_steps=500)
    return common.shrink(config) if arg.smoke else config
