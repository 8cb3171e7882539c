"""easy-VQA: 64-pixel shapes and templated questions, by a small ResNet and a GRU.

    python -m vlm_jax.data.prepare easy_vqa
    python launch.py --config=configs/vqa/easy_vqa.py --workdir=runs/easy_vqa

13 answers. A question-only baseline scores 67.0 % (82.5 % on yes/no, 23.3 % on the others): both
stand beside the result. `expected` is the bar of this configuration, reached in minutes on 2 CPU
cores.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: steps; smoke. A step shows 64 pictures once and asks 6 questions about each."""
    arg = common.parse_arg(arg, steps=1500, smoke=False)
    width = 32 if arg.smoke else 128
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = arg.steps
    config.model = dict(
        vision=common.small_resnet(width),
        text=dict(name="recurrent", cell="gru", vocab=512, width=64, hidden=width),
        fusion=dict(name="concat", width=width, product=True),
        classify=dict(hidden=width),
    )
    config.tasks = dict(vqa=dict(length=16, per_image=6))
    config.data = dict(
        train=dict(name="easy_vqa", split="train"),
        image=dict(size=64),
        tokenizer=dict(name="word"),
    )
    config.evals = dict(test=dict(task="vqa", data=dict(name="easy_vqa", split="test")))
    config.optimizer = common.adamw(1e-3)
    config.schedule = dict(name="cosine", warmup_percent=5)
    config.expected = {"test/accuracy": (1.0, 0.01)}
    return common.shrink(config) if arg.smoke else config
