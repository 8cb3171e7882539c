"""BLIP-base, fine-tuned for COCO retrieval by its contrastive half (arXiv:2201.12086).

    python launch.py --config=configs/retrieval/blip.py:folder=PATH --workdir=runs/blip_retrieval

PATH: a published folder such as Salesforce/blip-itm-base-coco. 195,375,873 parameters of the
published 223,744,258: those that only the matching head needs, the text encoder's cross-attention
among them, are left out here. The authors' recipe: 384 pixels, 6 epochs, batch 256, AdamW with
learning rate 1e-5 and weight decay 0.05, a cosine, RandomResizedCrop(0.5, 1), flips and
RandAugment(2, 5); contrast and matching with a momentum encoder and a queue of 57,600; texts and
pictures are ranked by contrast, and the best 256 again by the matching head. Their library reports
COCO R@1 82.0 / 64.5 and Flickr30k 96.9 / 87.5.
What differs: contrast within the batch alone, no matching, so the ranking is that of the first
stage and lower numbers are expected.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
MATCHING = ["classify_head", "text/transformer/layers/cross_.*", "contrast_head/logit_scale"]
"""Parts of the matching head, and the temperature, which published folders do not keep."""


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 6
    text = dict(num_attention_heads=12, encoder_hidden_size=768)
    vision = dict(image_size=384, patch_size=16)
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=64, encoder_hidden_size=32)
        vision = TINY | dict(image_size=32, patch_size=8)
    described = dict(text_config=text, vision_config=vision, image_text_hidden_size=256)
    described["architectures"] = ["BlipForImageTextRetrieval"]
    config.model = common.published("blip", described) | common.CLIP_STATISTICS
    del config.model["classify"]
    config.model.contrast.scale = 1 / 0.07
    config.model.text.dropout = 0.1
    config.tasks = dict(retrieval=dict(length=35))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=vision["image_size"]),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words", randaugment=2, magnitude=5.0),
        tokenizer=dict(name="wordpiece", size=30_522),
    )
    if arg.folder:
        config.init = dict(workdir=arg.folder, skip=MATCHING)
        config.data.tokenizer = dict(name="published", folder=arg.folder)
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val")))
    config.optimizer = common.adamw(1e-5, weight_decay=0.05)
    config.schedule = dict(name="cosine")
    return common.shrink(config) if arg.smoke else config
