"""ViLT-B/32, fine-tuned for VQA (arXiv:2102.03334).

    python launch.py --config=configs/vqa/vilt.py:folder=PATH --workdir=runs/vilt

PATH: a published folder such as dandelin/vilt-b32-mlm. A masked-word head is left behind; of a
classifier that it may have all but the last layer is taken over, which starts afresh. 117,588,537
parameters with 3,129 answers. The paper's recipe (from memory): 10 epochs, batch 256, AdamW with
learning rate 1e-4 (ten times that for the classifier) and weight decay 0.01, 10 % warmup and a
linear decay, RandAugment(2, 9). It reports VQAv2 71.3 after pre-training on 4 million pictures.
What differs: pictures are stretched to 384 x 384, where the paper keeps their proportions with the
longer side up to 640; RandAugment leaves out what moves things. Without a folder the model starts
from noise, and no number is expected.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
TINY |= dict(vocab_size=512, image_size=32, patch_size=8)


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = fine_tuned(arg, "ViltForQuestionAnswering", common.vqav2("train"))
    del config.model.classify["classes"]  # as many as the task has answers
    config.tasks = dict(vqa=dict(length=40, answers=3129, loss_name="binary"))
    if arg.folder:
        config.init.skip = ["classify_head/out"]
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    return common.shrink(config) if arg.smoke else config


def fine_tuned(arg, architecture, train):
    """The paper's recipe for a class of the reference's, on the source `train`; tasks and evals are
    missing. From a folder comes what fits, heads only where it has them.
    """
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 10
    described = dict(architectures=[architecture], image_size=384, patch_size=32)
    config.model = common.published("vilt", described | (TINY if arg.smoke else {}))
    config.data = dict(
        train=train,
        image=dict(size=32 if arg.smoke else 384),
        augment=dict(randaugment=2, magnitude=9.0),
        tokenizer=dict(name="wordpiece", size=30_522),
    )
    if arg.folder:
        config.init = dict(workdir=arg.folder, optional=["classify_head", "reconstruct_head"])
        config.data.tokenizer = dict(name="published", folder=arg.folder)
    config.optimizer = common.adamw(1e-4, multipliers=[("classify_head", 10.0)], clip_norm=None)
    config.schedule = dict(name="linear", warmup_percent=10)
    return config
