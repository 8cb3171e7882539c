"""PaliGemma fine-tuned for VQA or captions (arXiv:2407.07726).

    python launch.py --config=configs/vqa/paligemma.py:folder=PATH --workdir=runs/paligemma
    python launch.py --config=configs/vqa/paligemma.py:task=captions,folder=PATH --workdir=runs/pg

PATH: a published folder such as google/paligemma-3b-pt-224. 2,923,466,480 parameters at 224 pixels,
2,924,351,216 with `:res=448`. The authors' best sweep: batch 256, Adam (0.9, 0.999), 5 % warmup and
a cosine, gradients clipped at 1; VQAv2: 10 epochs, learning rate 1e-5, weight decay 1e-6 (0 at 448
pixels), prompt "answer en QUESTION"; COCO: 5 epochs, the same rate, "caption en", two beams. They
report VQAv2 83.19 and COCO CIDEr 141.92, at 448 pixels 85.64 and 144.60.
What differs: nothing that is known to matter; the batch may have to be smaller on fewer chips.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: task, "vqa" or "captions"; res, the image side in pixels; text, tokens beside
    the image's; folder, a published checkpoint to start from; smoke; those of `common.at_scale`.
    """
    known = dict(task="vqa", res=224, text=64, folder="", smoke=False)
    arg = common.parse_arg(arg, **known, **common.SCALE)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 5 if arg.task == "captions" else 10
    vision = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16)
    vision |= dict(intermediate_size=4304, patch_size=14, image_size=arg.res)
    vision |= dict(vision_use_head=False)
    text = dict(model_type="gemma", vocab_size=257_216, hidden_size=2048, num_hidden_layers=18)
    text |= dict(intermediate_size=16_384, num_attention_heads=8, num_key_value_heads=1)
    count = (arg.res // 14) ** 2
    image, marks, length = f"<image>*{count}", 257_152, count + arg.text
    if arg.smoke:
        vision = TINY | dict(patch_size=8, image_size=32, vision_use_head=False)
        text = TINY | dict(model_type="gemma", vocab_size=512, head_dim=16)
        text |= dict(num_key_value_heads=1, max_position_embeddings=64)
        image, marks, length = "[UNK]*16", 1, 64
    described = dict(vision_config=vision, text_config=text, image_token_index=marks)
    described["projection_dim"] = text["hidden_size"]
    config.model = common.published("paligemma", described)
    captions = arg.task == "captions"
    template = "{" + image + "}{bos}" + ("caption en" if captions else "answer en {prompt}") + "\n"
    if captions:
        config.tasks = dict(captioning=dict(length=length, template=template, blocked=8192))
    else:
        lengths = dict(length=length, question_length=length - 16, blocked=8192)
        config.tasks = dict(vqa=dict(name="vqa_generation", template=template, **lengths))
    source = common.coco if captions else common.vqav2
    held_out = source("val" if captions else "validation")
    config.data = dict(train=source("train"), image=dict(size=vision["image_size"]))
    common.fine_tune(config, arg.folder, name="bpe", size=257_152)
    config.evals = dict(
        val=dict(task="captioning", data=held_out, options=dict(beams=2))
        if captions
        else dict(task="vqa", data=held_out)
    )
    config.optimizer = common.adamw(1e-5, weight_decay=1e-6)
    config.schedule = dict(name="cosine", warmup_percent=5)
    common.at_scale(config, arg)
    return config
