"""GIT, fine-tuned for VQA (arXiv:2205.14100).

    python launch.py --config=configs/vqa/git.py:folder=PATH --workdir=runs/git_vqa

PATH: a published folder such as microsoft/git-base. Answers are written after the question, by the
captioner as it is: 176,619,066 parameters at 224 pixels and 177,159,738 at 480, whose table of
positions is larger (`:res=480`); `:large`: 394,196,026. The recipe (from memory): 10 epochs, batch
512, learning rate 2.5e-6, 480 pixels (large: 420); the authors' README reports VQAv2 72.72, of the
large model 75.51.
What differs: a folder of 224 pixels keeps its table of positions, which is resized to 480 pixels;
the commonest answer of a question is learned. Without a folder the model starts from noise, and no
number is expected.
"""

from ml_collections import ConfigDict

from configs import common
from configs.captioning import git


def get_config(arg=None):
    """Arguments: large, GIT-large; res, pixels of the published table of positions; folder, a
    published checkpoint to start from; smoke.
    """
    arg = common.parse_arg(arg, large=False, res=224, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 512
    config.total_epochs = 10
    config.model = git.model(arg, 24 if arg.smoke else arg.res)
    task = dict(name="vqa_generation", length=48, question_length=40, template="{bos}{prompt}")
    config.tasks = dict(vqa=task)
    seen = 32 if arg.smoke else 420 if arg.large else 480
    config.data = dict(train=common.vqav2("train"), image=dict(size=seen))
    common.fine_tune(config, arg.folder, name="wordpiece", size=30_522)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    config.optimizer = common.adamw(2.5e-6, weight_decay=1e-4)
    config.schedule = dict(name="cosine", warmup_steps=500)
    return common.shrink(config) if arg.smoke else config
