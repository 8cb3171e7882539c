"""Show, Attend and Tell with soft attention (Xu et al., arXiv:1502.03044) on COCO.

    python launch.py --config=configs/captioning/show_attend_tell.py --workdir=runs/sat

VGG-19 conv5 map of 14 x 14 x 512, LSTM of 512 (section 4.2), doubly stochastic attention (section
4.2.1; its lambda is not in the paper, 1 here); 34,999,122 parameters with 10,000 words. The paper
reports BLEU-4 24.3 (soft, COCO; from memory). Differences: VGG starts from random weights unless
`init` names a converted checkpoint; Adam for all data sets (the paper: RMSProp on Flickr8k); a
fixed number of epochs in place of early stopping on BLEU.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: smoke."""
    arg = common.parse_arg(arg, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_epochs = 20
    width = 32 if arg.smoke else 512
    config.model = dict(
        vision=dict(name="vgg", depth=19, features="map", width=4 if arg.smoke else 64),
        decoder=dict(
            name="attending_lstm",
            vocab=512 if arg.smoke else 10_000,
            width=width,
            attention_width=width,
        ),
        **common.IMAGENET_STATISTICS,
    )
    config.tasks = dict(captioning=dict(length=24, look_everywhere=1.0))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=64 if arg.smoke else 224, fit="crop"),
        tokenizer=dict(name="word", size=10_000, examples=82_783),
    )
    config.evals = dict(val=dict(task="captioning", data=common.coco("val"), options=dict(beams=3)))
    config.optimizer = dict(name="adam", learning_rate=4e-4, clip_norm=5.0, frozen=["vision"])
    config.schedule = dict(name="constant")
    return common.shrink(config) if arg.smoke else config
