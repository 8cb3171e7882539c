r"""VGG-16 features and an LSTM, merged: the classic small captioner (arXiv:1703.09137).

    python launch.py --config=configs/captioning/vgg16_lstm_merge.py --workdir=runs/merge \
        --config.data.train.path=/data/flickr8k

The decoder has 5,527,963 parameters on 4,096-d fc2 features with a vocabulary of 7,579. Recipe of
the tutorial version: Adam 1e-3, 20 epochs, dropout 0.5, at most 34 words. A public rerun on
Flickr8k reports BLEU-1..4 .518/.272/.186/.087. Differences: the network is pre-trained nowhere
here, so start `init` from converted ImageNet weights for comparable numbers; the optimizer sees
whole captions, not one next word per example (the same gradient, in another order). Data: a folder
with data.jsonl (see README, "Your own data").
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
    size = dict(width=4, fc_width=32) if arg.smoke else {}
    config.model = dict(
        vision=dict(name="vgg", depth=16, features="fc2") | size,
        decoder=dict(
            name="lstm_merge", vocab=512 if arg.smoke else 7579, width=32 if arg.smoke else 256
        ),
        **common.IMAGENET_STATISTICS,
    )
    config.tasks = dict(captioning=dict(length=36))
    config.data = dict(
        train=dict(name="jsonl", path="/data/flickr8k"),
        image=dict(size=32 if arg.smoke else 224),
        tokenizer=dict(name="word", size=7579),
    )
    config.evals = dict(
        test=dict(
            task="captioning",
            data=dict(name="jsonl", path="/data/flickr8k_test"),
            options=dict(beams=3),
        )
    )
    config.optimizer = dict(name="adam", learning_rate=1e-3, frozen=["vision"])
    config.schedule = dict(name="constant")
    return common.shrink(config) if arg.smoke else config
