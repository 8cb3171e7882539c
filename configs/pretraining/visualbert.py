r"""VisualBERT, stage 1: masked words and image-text matching (arXiv:1908.03557, section 3.2).

    python launch.py --config=configs/pretraining/visualbert.py --workdir=runs/visualbert
    python launch.py --config=configs/vqa/visualbert.py --workdir=runs/visualbert_vqa \
        --config.init.workdir=runs/visualbert

Recipe of the paper (from memory): COCO, 10 epochs, batch 48, learning rate 5e-5. Reported after
stage 2 (from memory): VQAv2 test-dev 70.80, test-std 71.00.
`:regions=36` is the published network, 112,074,812 parameters with 2,048 numbers a region. It wants
a source whose images are float32[36, 2048], the features of 36 detected regions (or 100:
`:regions=100`); no source of ours has them. `:regions=36,folder=PATH` goes on from a published
folder such as uclanlp/visualbert-vqa-coco-pre. The paper reads a caption and a second one, which
is of the picture or not; here one caption is.
Without `:regions` a locked ResNet-50 grid stands for the detector, so published weights do not
apply; the text passes its own BERT layers before the joint ones.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: regions, how many a picture has, 0 for a grid; folder, a published checkpoint to
    start from, which needs them; smoke.
    """
    arg = common.parse_arg(arg, regions=0, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 48
    config.total_epochs = 10
    words = dict(reconstruct=dict(vocab=common.bert(arg.smoke)["vocab"]))
    config.model = common.visualbert(arg.smoke) | words
    config.tasks = dict(masked_pretraining=dict(length=48))
    if arg.regions:
        config.model = common.visualbert_regions("VisualBertForPreTraining", arg.smoke)
        config.tasks.masked_pretraining.match_class = 0
    image: dict = dict(size=32 if arg.smoke else 224)
    if arg.regions:
        image = dict(size=2048, fit="regions", most=arg.regions)
    config.data = dict(
        train=common.coco("train"),
        image=image,
        tokenizer=dict(name="wordpiece", size=30_522, examples=82_783),
    )
    if arg.folder:
        common.fine_tune(config, arg.folder)
    config.evals = dict(val=dict(task="masked_pretraining", data=common.coco("val")))
    config.optimizer = common.adamw(5e-5, frozen=[] if arg.regions else ["vision"])
    config.schedule = dict(name="linear", warmup_percent=10)
    return common.shrink(config) if arg.smoke else config
