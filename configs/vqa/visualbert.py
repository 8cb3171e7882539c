r"""VisualBERT, stage 2: VQA, starting from the pre-trained run (arXiv:1908.03557, section 4.1).

    python launch.py --config=configs/vqa/visualbert.py --workdir=runs/visualbert_vqa \
        --config.init.workdir=runs/visualbert

Recipe of the paper (from memory): 10 epochs, batch 64, learning rate 2e-5; VQAv2 test-dev 70.80,
with detector regions and pre-training that this configuration does not have. `:scratch` trains
without stage 1.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: scratch, start from random weights; smoke."""
    arg = common.parse_arg(arg, scratch=False, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_epochs = 10
    config.model = common.visualbert(arg.smoke) | dict(classify=dict())
    config.tasks = dict(vqa=dict(length=24, answers=3129, loss_name="binary"))
    vqav2 = lambda split: dict(name="tfds", dataset="vqav2", split=split)
    config.data = dict(
        train=vqav2("train"),
        image=dict(size=32 if arg.smoke else 224),
        tokenizer=dict(name="file", path="runs/visualbert/tokenizer.json"),
    )
    config.evals = dict(val=dict(task="vqa", data=vqav2("validation")))
    config.optimizer = common.adamw(2e-5, frozen=["vision"])
    config.schedule = dict(name="linear", warmup_percent=10)
    if not (arg.scratch or arg.smoke):
        config.init = dict(workdir="runs/visualbert", skip=["reconstruct_head", "classify_head"])
    return common.shrink(config) if arg.smoke else config
