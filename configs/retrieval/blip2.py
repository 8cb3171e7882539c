"""BLIP-2's first stage, fine-tuned for COCO retrieval (arXiv:2301.12597, section 4.4).

    python launch.py --config=configs/retrieval/blip2.py:folder=PATH --workdir=runs/blip2_retrieval

PATH: a published folder such as Salesforce/blip2-itm-vit-g. 1,172,032,259 parameters: those
published and the temperature, which folders do not keep. An image is embedded by each of the 32
queries, of which the most alike counts; the best candidates are read together with the text. The
paper's recipe (from memory): 364 pixels, 5 epochs, batch 224, AdamW with learning rate 5e-6 and
weight decay 0.05, 1,000 steps of warmup and a cosine; contrast, matching and captioning; the best
128 are ranked again by the match. It reports COCO R@1 85.4 / 68.3 and, zero-shot, Flickr30k 97.6 /
89.7 (both from memory), which are to be compared with "reranked" here.
What differs: contrast and matching alone, because published folders have no head for words; no
smaller rates for lower layers of the vision tower.
"""

from ml_collections import ConfigDict

from configs import common
from configs.captioning.blip2 import eyes


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 224
    config.total_epochs = 5
    described = eyes(arg.smoke) | dict(architectures=["Blip2ForImageTextRetrieval"])
    described["qformer_config"] |= dict(use_qformer_text_input=True, vocab_size=30_523)
    if arg.smoke:
        described["qformer_config"] |= dict(vocab_size=512, max_position_embeddings=64)
    config.model = common.published("blip-2", described) | common.CLIP_STATISTICS
    config.model.vision.resize = "bicubic"
    config.model.contrast.scale = 1 / 0.07
    task = dict(length=16 if arg.smoke else 35, match=dict(rerank=4 if arg.smoke else 128))
    config.tasks = dict(retrieval=task)
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=32 if arg.smoke else 364),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words"),
        tokenizer=dict(name="wordpiece", size=30_522),
    )
    if arg.folder:
        config.init = dict(workdir=arg.folder, skip=["contrast_head/logit_scale"])
        config.data.tokenizer = dict(name="published", folder=arg.folder)
    config.evals = dict(val=dict(task="retrieval", data=common.coco("val")))
    config.optimizer = common.adamw(5e-6, weight_decay=0.05)
    config.schedule = dict(name="cosine", warmup_steps=1000)
    return common.shrink(config) if arg.smoke else config
