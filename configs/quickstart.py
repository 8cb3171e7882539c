"""One small model that captions, answers and retrieves, trained in minutes on built-in scenes.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Sized for five minutes on 2 CPU cores. Beside the three tasks it learns what lies where, from the
boxes of the training scenes: without that, captions get one object in three right. `expected` holds
what one run gave and what `--mode=reproduce` compares with: the question-only baseline of VQA is
0.39, chance of retrieval among 256 is 0.004, captions of another picture have an attribute F1 of
0.04.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.data import scenes


def model(width, vocab, vision="resnet"):
    """Every part at one width; all of them read the 8 x 8 tokens of one small ResNet or ViT."""
    block = dict(heads=4, mlp_width=2 * width, activation="relu")  # quicker than GELU on a CPU
    encoders = dict(resnet=common.small_resnet(width // 2), vit=common.small_vit(width))
    return dict(
        vision=encoders[vision],
        connector=dict(name="mlp", widths=(width,), norm="layer", positions=True),
        text=dict(name="transformer", vocab=vocab, width=width, layers=2, max_length=32, **block),
        fusion=dict(name="attention", layers=2, **block),
        decoder=dict(
            name="causal_lm",
            memory="attend",
            vocab=vocab,
            width=width,
            layers=2,
            max_length=32,
            **block,
        ),
        contrast=dict(size=width),
        classify=dict(hidden=width, activation="relu"),
        regions=dict(
            classes={kind: len(words) for kind, words in scenes.kinds().items()}, activation="relu"
        ),
    )


def get_config(arg=None):
    """Arguments: steps, width of every part; vision, "resnet" or "vit"; smoke."""
    arg = common.parse_arg(arg, steps=1250, width=128, vision="resnet", smoke=False)
    width, vocab = (32, 512) if arg.smoke else (arg.width, 512)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_steps = arg.steps
    config.model = model(width, vocab, arg.vision)
    config.tasks = dict(
        captioning=dict(length=30, per_image=2),
        vqa=dict(answers=scenes.answers(), length=16, per_image=6),
        retrieval=dict(length=30, weight=0.5),
        # What lies where: the shapes, which texts alone would take several times as long to teach.
        region_labels=dict(kinds=scenes.kinds(), grid=8, weight=3.0),
    )
    single = common.scenes("train", objects=(1, 1), seed=1)
    config.data = dict(
        # Single objects teach words without the riddle of which object is meant.
        train=dict(name="mixture", sources=[single, common.scenes("train")], weights=(1, 3)),
        image=dict(size=64),
        tokenizer=dict(name="word", examples=1000),
    )
    test = common.scenes("test")
    config.evals = dict(
        captioning=dict(task="captioning", data=dict(test, length=256)),
        vqa=dict(task="vqa", data=test),
        retrieval=dict(task="retrieval", data=dict(test, length=256, captions=1)),
    )
    quicker = {"vision": 4.0} if arg.vision == "resnet" else {}
    config.optimizer = common.adamw(1e-3, multipliers=quicker)
    config.schedule = dict(name="cosine", warmup_steps=50)
    config.expected = {
        "vqa/accuracy": (0.81, 0.05),
        "retrieval/image_to_text/R@1": (0.61, 0.12),
        "captioning/attribute_f1": (0.85, 0.08),
    }
    return common.shrink(config) if arg.smoke else config
