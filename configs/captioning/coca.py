"""CoCa: captions and a contrastive loss over one model (arXiv:2205.01917).

    python launch.py --config=configs/captioning/coca.py --workdir=runs/coca
    python launch.py --config=configs/captioning/coca.py:large,folder=PATH --workdir=runs/coca

The networks are open_clip's, whose decoder has an MLP after either attention: B/32 with 253,560,065
parameters, or `:large`, L/14 with 638,450,177. PATH: a published folder such as
laion/CoCa-ViT-L-14-laion2B-s13B-b90k. `:paper` is the paper's base model, B/18 at 288 pixels with
one MLP per layer: 386,605,057, where the paper says 383 million (from memory). Its recipe (from
memory): JFT-3B and ALIGN pairs, batch 65,536, 500,000 steps, Adafactor (0.9, 0.999) with learning
rate 8e-4 and weight decay 0.01, 2 % warmup and a linear decay, weight 2 for captions and 1 for the
contrast. The 2.1B model of the paper reports ImageNet zero-shot 86.3, COCO CIDEr 143.6 (from
memory); open_clip evaluates ImageNet 63.3 (B/32) and 75.6 (L/14, COCO R@1 62.9 / 45.7).
What differs: this trains on COCO captions and expects none of these numbers. One pooler serves both
losses, where the paper has one for each; both losses encode the text, once with its class token.
"""

from ml_collections import ConfigDict

from configs import common

TEXT = dict(context_length=76, vocab_size=49_408, width=512, heads=8, layers=12)
BASE = dict(image_size=224, patch_size=32, width=768, layers=12)
LARGE = dict(image_size=224, patch_size=14, width=1024, layers=24)


def get_config(arg=None):
    """Arguments: large, L/14; paper, the paper's base model; folder, a published checkpoint to
    start from; smoke.
    """
    arg = common.parse_arg(arg, large=False, paper=False, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 65_536
    config.total_steps = 500_000
    vision, text = BASE, TEXT
    if arg.large:
        vision, text = LARGE, TEXT | dict(width=768, heads=12)
    if arg.paper:
        vision = BASE | dict(image_size=288, patch_size=18)
        text = TEXT | dict(width=768, heads=12, vocab_size=64_000)
    if arg.smoke:
        vision = dict(image_size=32, patch_size=8, width=32, layers=2, head_width=16)
        vision |= dict(attn_pooler_queries=4, attn_pooler_heads=2)
        text = dict(context_length=32, vocab_size=512, width=32, heads=2, layers=2)
    pooled = dict(attentional_pool=True, pool_type="tok")
    parts = dict(decoder_parts="paper" if arg.paper else "released")
    described = dict(embed_dim=text["width"], vision_cfg=pooled | vision)
    described |= dict(text_cfg=text | dict(embed_cls=True), multimodal_cfg=text | parts)
    model = common.published("open_clip_coca", dict(model_cfg=described))
    config.model = model | common.CLIP_STATISTICS
    length = text["context_length"]
    config.tasks = dict(
        captioning=dict(length=length, weight=2.0), retrieval=dict(length=length, weight=1.0)
    )
    image = dict(size=vision["image_size"], fit="crop")
    config.data = dict(train=common.coco("train"), image=image)
    common.fine_tune(config, arg.folder, name="bpe", size=text["vocab_size"], lower=True)
    config.evals = dict(
        captions=dict(task="captioning", data=common.coco("val"), every_percent=20),
        search=dict(task="retrieval", data=common.coco("val"), every_percent=20),
    )
    rule = dict(name="adafactor", momentum=0.9)
    config.optimizer = common.adamw(8e-4, **rule)
    config.schedule = dict(name="linear", warmup_percent=2)
    return common.shrink(config) if arg.smoke else config
