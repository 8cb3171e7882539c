"""PaliGemma 2 3B, fine-tuned for COCO captions (arXiv:2412.03555).

    python launch.py --config=configs/captioning/paligemma2.py:folder=PATH --workdir=runs/pg2

PATH: a published folder such as google/paligemma2-3b-pt-224. 3,032,242,416 parameters at 224 pixels
(`:res=448`: 3,033,127,152; `:large`, with Gemma 2 9B: 9,662,638,832). The recipe is PaliGemma's:
batch 256, 5 epochs, Adam (0.9, 0.999) with weight decay 1e-6, 5 % warmup and a cosine, gradients
clipped at 1, "caption en", two beams; the paper sweeps the learning rate for each task and size
(from memory), 1e-5 is the first generation's. It reports COCO CIDEr 141.3 at 224 pixels and 143.4
at 448, VQAv2 83.0 and 84.8 (from memory).
What differs: nothing that is known to matter; the batch may have to be smaller on fewer chips.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SMALL = dict(hidden_size=2304, num_hidden_layers=26, num_attention_heads=8)
SMALL |= dict(num_key_value_heads=4, intermediate_size=9216)
LARGE = dict(hidden_size=3584, num_hidden_layers=42, num_attention_heads=16)
LARGE |= dict(num_key_value_heads=8, intermediate_size=14_336)


def get_config(arg=None):
    """Arguments: res, the image side in pixels; large, the 10B model; folder, a published
    checkpoint to start from; smoke; those of `common.at_scale`.
    """
    arg = common.parse_arg(arg, res=224, large=False, folder="", smoke=False, **common.SCALE)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 5
    vision = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16)
    vision |= dict(intermediate_size=4304, patch_size=14, image_size=arg.res)
    vision |= dict(vision_use_head=False)
    text = (LARGE if arg.large else SMALL) | dict(vocab_size=257_216, sliding_window=4096)
    count = (arg.res // 14) ** 2
    image, marks, length = f"<image>*{count}", 257_152, count + 64
    if arg.smoke:
        vision = TINY | dict(patch_size=8, image_size=32, vision_use_head=False)
        text = TINY | dict(vocab_size=512, head_dim=16, num_key_value_heads=1, sliding_window=8)
        text |= dict(max_position_embeddings=128)
        image, marks, length = "[UNK]*16", 1, 48
    described = dict(vision_config=vision, text_config=text | dict(model_type="gemma2"))
    described |= dict(image_token_index=marks, projection_dim=text["hidden_size"])
    config.model = common.published("paligemma", described)
    template = "{" + image + "}{bos}caption en\n"
    config.tasks = dict(captioning=dict(length=length, template=template, blocked=8192))
    config.data = dict(train=common.coco("train"), image=dict(size=vision["image_size"]))
    common.fine_tune(config, arg.folder, name="bpe", size=257_152)
    config.evals = dict(val=dict(task="captioning", data=common.coco("val"), options=dict(beams=2)))
    config.optimizer = common.adamw(1e-5, weight_decay=1e-6)
    config.schedule = dict(name="cosine", warmup_percent=5)
    common.at_scale(config, arg)
    return config
