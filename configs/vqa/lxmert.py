"""LXMERT, fine-tuned for VQA (arXiv:1908.07490).

    python launch.py --config=configs/vqa/lxmert.py --workdir=runs/lxmert
    python launch.py --config=configs/vqa/lxmert.py:regions,folder=PATH --workdir=runs/lxmert

`:regions` is the published network: 213,930,297 parameters with 3,129 answers. It wants a source
whose images are float32[36, 2052]: the features of 36 detected regions, or fewer, and the corners
of each box as shares of the picture; no source of ours has them. PATH: a published folder such as
unc-nlp/lxmert-base-uncased. Of the heads that it may have the one for answers is taken over, all
but its last layer, which starts afresh. The authors' recipe: 4 epochs, batch 32, learning rate
5e-5, AdamW, 10 % warmup and a linear decay (from memory). Their README reports VQAv2 72.42 / 72.54
(test-dev / test-standard) after pre-training on 9 million pairs.
What differs without `:regions`: a locked ResNet-50 grid, projected, stands for the detector and for
the five layers over its regions, and the model starts from noise; no number is expected.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_attention_heads=2, intermediate_size=64, vocab_size=512)
TINY |= dict(l_layers=2, x_layers=2, r_layers=2)


def get_config(arg=None):
    """Arguments: regions, detected regions in place of a grid; folder, a published checkpoint to
    start from, which needs them; smoke.
    """
    arg = common.parse_arg(arg, regions=False, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_epochs = 4
    described = dict(architectures=["LxmertForQuestionAnswering"], num_qa_labels=3129)
    model = common.published("lxmert", described | (TINY if arg.smoke else {}))
    if not arg.regions:
        width = model["text"]["width"]
        model |= dict(vision=common.resnet50(arg.smoke)) | common.IMAGENET_STATISTICS
        model |= dict(connector=dict(name="mlp", widths=(width,), norm="layer", epsilon=1e-12))
    config.model = model
    del config.model.classify["classes"]  # as many as the task has answers
    for part in ("text", "fusion") + (("vision",) if arg.regions else ()):
        config.model[part].dropout = 0.1
    config.tasks = dict(vqa=dict(length=20, answers=3129, loss_name="binary"))
    image: dict = dict(size=32 if arg.smoke else 448)
    if arg.regions:
        image = dict(size=2052, fit="regions", most=36)
    config.data = dict(
        train=common.vqav2("train"),
        image=image,
        tokenizer=dict(name="wordpiece", size=30_522),
    )
    if arg.folder:
        heads = ["classify_head", "reconstruct_head", "regions_head"]
        config.init = dict(workdir=arg.folder, skip=["classify_head/out"], optional=heads)
        config.data.tokenizer = dict(name="published", folder=arg.folder)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    config.optimizer = common.adamw(5e-5, frozen=[] if arg.regions else ["vision"])
    config.schedule = dict(name="linear", warmup_percent=10)
    return common.shrink(config) if arg.smoke else config
