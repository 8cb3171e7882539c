"""One small model of video: captions, questions about motion, retrieval, on built-in moving scenes.

    python launch.py --config=configs/video/moving_scenes.py --workdir=runs/video
    python launch.py --config=configs/video/moving_scenes.py:frames=1 --workdir=runs/one_frame

The second is the model of a single frame, the one in the middle. Six minutes on 2 CPU cores, and
three. What one run of each gave on motion questions, of which question alone answers 0.25 and
nobody can answer more than 0.38 from the middle frame (`vlm_jax.data.moving_scenes`):

    six frames   0.912 (direction 0.98, faster 0.92, moves or not 0.96, order 0.65)
    shuffled     0.531 (the same model, its frames in a random order: the entry motion_shuffled)
    one frame    0.350

As in configs/quickstart.py, labels of what lies where teach what texts alone would teach slowly.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import moving_scenes
from vlm_jax.data.moving_texts import MOTION

LOOK = ("colour", "shape")
"""Families of questions that a single frame answers."""


def clips(split, **options):
    """The built-in moving scenes."""
    return dict(name="moving_scenes", split=split) | options


def shuffled(source):
    """The same with the frames of every clip in a random order."""
    return dict(name="shuffled_frames", source=source)


def vision(width, frames, pool, layers):
    """Convolutions over every frame, its tokens pooled over time, then layers over the places."""
    block = dict(heads=4, mlp_width=2 * width, activation="relu")
    vit = dict(width=width, layers=0, patch=8, image_size=64, stem="conv", positions="sincos")
    vit |= dict(class_token=False, pooling="none", heads=4)
    pool = None if pool == "perceiver" else pool
    mixer = dict(layers=layers, **block) if layers and pool else None
    return dict(name="frames", frames=frames, vit=vit, pool=pool, mixer=mixer)


def model(width, frames, pool, layers):
    """Every part at one width; all of them read the 8 x 8 tokens of a clip."""
    block = dict(heads=4, mlp_width=2 * width, activation="relu")
    text = dict(vocab=128, width=width, layers=2, max_length=32, **block)
    latents = dict(name="perceiver", latents=64, layers=2, **block)
    kinds = {kind: len(words) for kind, words in moving_scenes.kinds().items()}
    return dict(
        vision=vision(width, frames, pool, layers),
        connector=latents if pool == "perceiver" else None,
        text=dict(name="transformer", **text | dict(layers=1)),
        fusion=dict(name="attention", layers=2, **block),
        decoder=dict(name="causal_lm", memory="attend", **text),
        contrast=dict(size=width),
        classify=dict(hidden=width, activation="relu"),
        regions=dict(classes=kinds, activation="relu"),
    )


def get_config(arg=None):
    """Arguments: frames of a clip; pool, over time: join, attention, mean or perceiver; steps,
    width, layers; smoke.
    """
    arg = common.parse_arg(arg, frames=6, pool="join", steps=1500, width=64, layers=2, smoke=False)
    width, layers = (16, 1) if arg.smoke else (arg.width, arg.layers)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_steps = arg.steps
    config.model = model(width, arg.frames, arg.pool, layers)
    config.tasks = dict(
        captioning=dict(length=24),
        vqa=dict(answers=moving_scenes.answers(), length=14, per_image=4),
        retrieval=dict(length=24, weight=0.5),
        # What lies where, and which way it goes: texts alone would take longer to teach it.
        region_labels=dict(kinds=moving_scenes.kinds(), grid=8, weight=3.0),
    )
    if arg.pool == "perceiver":  # whose tokens lie nowhere
        del config.tasks["region_labels"]
        config.model.regions = None
    config.data = dict(
        train=clips("train"),
        image=dict(size=64, frames=arg.frames),
        tokenizer=dict(name="word", examples=1000),
    )
    motion = clips("test", length=500, questions=2, families=MOTION)
    config.evals = dict(
        motion=dict(task="vqa", data=motion),
        motion_shuffled=dict(task="vqa", data=shuffled(motion)),
        look=dict(task="vqa", data=clips("test", length=250, questions=2, families=LOOK)),
        captioning=dict(task="captioning", data=clips("test", length=256)),
        retrieval=dict(task="retrieval", data=clips("test", length=256, captions=1)),
    )
    config.optimizer = common.adamw(2e-3)
    config.schedule = dict(name="cosine", warmup_steps=100)
    if arg.frames == 6:
        config.expected = {
            "motion/accuracy": (0.91, 0.06),
            "motion_shuffled/accuracy": (0.53, 0.08),
            "look/accuracy": (0.95, 0.04),
            "captioning/attribute_f1": (0.94, 0.05),
            "retrieval/image_to_text/R@1": (0.86, 0.10),
        }
    return smoke(config) if arg.smoke else config


def smoke(config):
    """`common.shrink` on clips, with two of the tasks and one evaluation."""
    config = common.shrink(config)
    for name in ("captioning", "retrieval"):
        del config.tasks[name]
    config.data.train = clips("train", length=64)
    few = clips("test", length=8, captions=1, questions=1)
    config.evals = dict(motion_shuffled=dict(task="vqa", data=shuffled(few)))
    return config
