"""GIT, fine-tuned for COCO captions (arXiv:2205.14100).

    python launch.py --config=configs/captioning/git.py:folder=PATH --workdir=runs/git

PATH: a published folder such as microsoft/git-base. 176,619,066 parameters; `:large`, with CLIP's
ViT-L/14: 394,196,026. The recipe (from memory): 10 epochs, batch 512, learning rate 2.5e-6, five
times that for the text decoder during pre-training; the authors' README reports CIDEr 131.35 on the
Karpathy test split, of the large model 138.45.
What differs: no SCST; without a folder the model starts from noise, and no number is expected.
"""

from ml_collections import ConfigDict

from configs import common

LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
LARGE |= dict(intermediate_size=4096, patch_size=14)
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: large, GIT-large; folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, large=False, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512
    config.total_epochs = 10
    size = 32 if arg.smoke else 224
    config.model = model(arg, size)
    config.tasks = dict(captioning=dict(length=40))
    config.data = dict(train=common.coco("train"), image=dict(size=size, fit="crop"))
    common.fine_tune(config, arg.folder, name="wordpiece", size=30_522)
    config.evals = dict(val=dict(task="captioning", data=common.coco("val"), options=dict(beams=4)))
    config.optimizer = common.adamw(2.5e-6, weight_decay=1e-4)
    config.schedule = dict(name="cosine", warmup_steps=500)
    return common.shrink(config) if arg.smoke else config


def model(arg, size):
    """CLIP's B/16 or L/14 at `size` pixels, and six layers of BERT that read what it sees."""
    text, vision = {}, LARGE if arg.large else dict(patch_size=16)
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=64)
        vision = TINY | dict(patch_size=8)
    described = text | dict(vision_config=vision | dict(image_size=size))
    return common.published("git", described) | common.CLIP_STATISTICS
