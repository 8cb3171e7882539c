"""ResNet-50 and BERT-base as a dual encoder, cosine retrieval in both directions, on Flickr30k.

    python launch.py --config=configs/retrieval/resnet_bert.py --workdir=runs/resnet_bert

Sizes of the two papers (arXiv:1512.03385, arXiv:1810.04805): 23,508,032 and 109,482,240 parameters,
projected to 512. Build Flickr30k once with vlm_jax.data.builders.flickr30k (README, "Your own
data"). No published number belongs to this pair.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: smoke."""
    arg = common.parse_arg(arg, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 30
    config.model = dict(
        vision=common.resnet50(arg.smoke),
        text=common.bert(arg.smoke),
        contrast=dict(size=32 if arg.smoke else 512),
        **common.IMAGENET_STATISTICS,
    )
    config.tasks = dict(retrieval=dict(length=48))
    flickr30k = lambda split: dict(name="tfds", dataset="flickr30k", split=split)
    config.data = dict(
        train=flickr30k("train"),
        image=dict(size=32 if arg.smoke else 224, fit="crop"),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words"),
        tokenizer=dict(name="wordpiece", size=30_522, examples=29_000),
    )
    config.evals = dict(test=dict(task="retrieval", data=flickr30k("test")))
    config.optimizer = common.adamw(1e-4, multipliers={"text": 0.5})
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
