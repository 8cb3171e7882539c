"""ResNet-50 and a two-layer GRU, concatenated and projected: VQA as classification.

    python launch.py --config=configs/vqa/resnet_gru.py --workdir=runs/resnet_gru

GRU of hidden size 256; accuracy, precision, recall and F1 are reported over the answers. VQAv2 is
built once with vlm_jax.data.builders.vqav2 (README, "Your own data"). The VQA paper's deeper LSTM Q
+ norm I is another network, so no number of it is claimed.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: smoke."""
    arg = common.parse_arg(arg, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 10
    width = 32 if arg.smoke else 1024
    config.model = dict(
        vision=common.resnet50(arg.smoke),
        text=dict(
            name="recurrent",
            cell="gru",
            vocab=512 if arg.smoke else 16_384,
            width=300,
            hidden=256,
            layers=2,
        ),
        fusion=dict(name="concat", width=width, dropout=0.5),
        classify=dict(hidden=width),
        **common.IMAGENET_STATISTICS,
    )
    config.tasks = dict(vqa=dict(length=20, answers=3129, loss_name="binary"))
    vqav2 = lambda split: dict(name="tfds", dataset="vqav2", split=split)
    config.data = dict(
        train=vqav2("train"),
        image=dict(size=32 if arg.smoke else 224),
        tokenizer=dict(name="word", size=16_384, examples=440_000),
    )
    config.evals = dict(val=dict(task="vqa", data=vqav2("validation")))
    config.optimizer = common.adamw(3e-4, frozen=["vision"])
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
