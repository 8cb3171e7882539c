"""BLIP-base, fine-tuned for COCO retrieval (arXiv:2201.12086).

    python launch.py --config=configs/retrieval/blip.py:folder=PATH --workdir=runs/blip_retrieval

PATH: a published folder such as Salesforce/blip-itm-base-coco. 223,744,259 parameters: those
published and the temperature, which folders do not keep. The authors' recipe: 384 pixels, 6 epochs,
batch 256, AdamW with learning rate 1e-5 and weight decay 0.05, a cosine, RandomResizedCrop(0.5, 1),
flips and RandAugment(2, 5); contrast and matching, whose wrong texts and pictures are drawn from
the batch, the likelier the more alike they are; texts and pictures are ranked by contrast, and the
best 256 of each again by the match. Their library reports COCO R@1 82.0 / 64.5 and Flickr30k
96.9 / 87.5, which are to be compared with "reranked" here.
What differs: no momentum encoder and no queue of 57,600, so the contrast is within the batch alone
and without soft targets. A wrong text is also none of the picture's other captions, by whichever
pictures they are said; the authors leave out those of the same picture.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
ENCODE = 30_523
"""The token that begins a text which is read with an image, the last of the published table."""


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
    config.model.contrast.scale = 1 / 0.07
    config.model.text.dropout = 0.1
    match = dict(rerank=4, start=511) if arg.smoke else dict(rerank=256, start=ENCODE)
    config.tasks = dict(retrieval=dict(length=35, match=match))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=vision["image_size"]),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words", randaugment=2, magnitude=5.0),
        tokenizer=dict(name="wordpiece", size=30_522),
    )
    if arg.folder:
        config.init = dict(workdir=arg.folder, skip=["contrast_head/logit_scale"])
        config.data.tokenizer = dict(name="published", folder=arg.folder)
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val")))
    config.optimizer = common.adamw(1e-5, weight_decay=0.05)
    config.schedule = dict(name="cosine")
    return common.shrink(config) if arg.smoke else config
