r"""VisualBERT, stage 2: VQA, starting from the pre-trained run (arXiv:1908.03557, section 4.1).

    python launch.py --config=configs/vqa/visualbert.py --workdir=runs/visualbert_vqa \
        --config.init.workdir=runs/visualbert
    python launch.py --config=configs/vqa/visualbert.py:regions=100,folder=PATH --workdir=runs/vqa

Recipe of the paper (from memory): 10 epochs, batch 64, learning rate 2e-5; VQAv2 test-dev 70.80,
test-standard 71.00, with 100 detected regions of 2,048 numbers each.
`:regions=100` (or 36) is the published network: 113,856,825 parameters with 3,129 answers. It wants
a source whose images are float32[100, 2048], the features of a detector, of at most so many
regions; no source of ours has them. PATH: a published folder such as
uclanlp/visualbert-vqa-coco-pre, whose heads are left behind; without one, a run of stage 1 with
regions.
Without `:regions` a locked ResNet-50 grid stands for the detector. `:scratch` trains without stage
1. No number is expected.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: regions, how many a picture has, 0 for a grid; folder, a published checkpoint to
    start from, which needs them; scratch, start from random weights; smoke.
    """
    arg = common.parse_arg(arg, regions=0, folder="", scratch=False, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_epochs = 10
    config.model = common.visualbert(arg.smoke) | dict(classify=dict())
    if arg.regions:
        config.model = common.visualbert_regions("VisualBertForQuestionAnswering", arg.smoke)
    config.tasks = dict(vqa=dict(length=24, answers=3129, loss_name="binary"))
    vqav2 = lambda split: dict(name="tfds", dataset="vqav2", split=split)
    image: dict = dict(size=32 if arg.smoke else 224)
    if arg.regions:
        image = dict(size=2048, fit="regions", most=arg.regions)
    config.data = dict(
        train=vqav2("train"),
        image=image,
        tokenizer=dict(name="file", path="runs/visualbert/tokenizer.json"),
    )
    config.evals = dict(val=dict(task="vqa", data=vqav2("validation")))
    config.optimizer = common.adamw(2e-5, frozen=[] if arg.regions else ["vision"])
    config.schedule = dict(name="linear", warmup_percent=10)
    if arg.folder:
        config.data.tokenizer = dict(name="published", folder=arg.folder)
    if not (arg.scratch or arg.smoke):
        start = arg.folder or "runs/visualbert"
        config.init = dict(workdir=start, skip=["classify_head"], optional=["reconstruct_head"])
    return common.shrink(config) if arg.smoke else config
