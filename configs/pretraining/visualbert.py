r"""VisualBERT, stage 1: masked words and image-text matching (arXiv:1908.03557, section 3.2).

    python launch.py --config=configs/pretraining/visualbert.py --workdir=runs/visualbert
    python launch.py --config=configs/vqa/visualbert.py --workdir=runs/visualbert_vqa \
        --config.init.workdir=runs/visualbert

Recipe of the paper (from memory): COCO, 10 epochs, batch 48, learning rate 5e-5. Differences: a
ResNet-50 grid in place of detector regions, so published weights do not apply; the text passes its
own BERT layers before the joint ones.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: smoke."""
    arg = common.parse_arg(arg, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 48
    config.total_epochs = 10
    config.model = common.visualbert(arg.smoke) | dict(
        reconstruct=dict(vocab=common.bert(arg.smoke)["vocab"])
    )
    config.tasks = dict(masked_pretraining=dict(length=48))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=32 if arg.smoke else 224),
        tokenizer=dict(name="wordpiece", size=30_522, examples=82_783),
    )
    config.evals = dict(val=dict(task="masked_pretraining", data=common.coco("val")))
    config.optimizer = common.adamw(5e-5, frozen=["vision"])
    config.schedule = dict(name="linear", warmup_percent=10)
    return common.shrink(config) if arg.smoke else config
