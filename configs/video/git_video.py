"""GIT-base for videos: six frames, each with a vector for its time (arXiv:2205.14100, section 3.3).

    python launch.py --config=configs/video/git_video.py:data=FOLDER,folder=PATH --workdir=runs/git

FOLDER: one with data.jsonl, whose rows have "video" and "captions", and a subfolder `val` of the
same kind. PATH: a published folder such as microsoft/git-base-vatex. 176,623,674 parameters. The
recipe is that of configs/captioning/git.py, from memory; no number is expected.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: data, a folder; folder, a published checkpoint to start from; frames; smoke."""
    arg = common.parse_arg(arg, data="data/videos", folder="", frames=6, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512
    config.total_epochs = 10
    text, vision = {}, dict(image_size=224, patch_size=16)
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=128)
        vision = TINY | dict(image_size=16, patch_size=8)
    described = text | dict(vision_config=vision, num_image_with_embedding=arg.frames)
    config.model = common.published("git", described) | common.CLIP_STATISTICS
    config.tasks = dict(captioning=dict(length=40))
    videos = lambda folder: dict(name="jsonl", path=folder)
    size = vision["image_size"]
    config.data = dict(train=videos(arg.data), image=dict(size=size, fit="crop", frames=arg.frames))
    common.fine_tune(config, arg.folder, name="wordpiece", size=30_522)
    val = videos(f"{arg.data}/val")
    config.evals = dict(val=dict(task="captioning", data=val, options=dict(beams=4)))
    config.optimizer = common.adamw(2.5e-6, weight_decay=1e-4)
    config.schedule = dict(name="cosine", warmup_steps=500)
    if arg.smoke:
        config = common.shrink(config)
        config.data.train = dict(name="moving_scenes", split="train", length=64)
        config.evals.val.data = dict(name="moving_scenes", split="test", length=8, captions=1)
        config.evals.val.options = {}
    return config
