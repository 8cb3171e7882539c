"""BLIP-base, fine-tuned for COCO captions (arXiv:2201.12086).

    python launch.py --config=configs/captioning/blip.py:folder=PATH --workdir=runs/blip

PATH: a published folder such as Salesforce/blip-image-captioning-base. 223,971,644 parameters. The
authors' recipe: 384 pixels, 5 epochs, batch 256, AdamW with learning rate 1e-5 and weight decay
0.05, a cosine, the prompt "a picture of ", RandomResizedCrop(0.5, 1), flips and RandAugment(2, 5);
three beams, 5 to 20 tokens. Their library reports BLEU-4 39.9 and CIDEr 133.5.
What differs: flips exchange the words left and right in captions, RandAugment leaves out what moves
things.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 5
    text = dict(num_attention_heads=12, encoder_hidden_size=768)
    vision = dict(image_size=384, patch_size=16)
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=64, encoder_hidden_size=32)
        vision = TINY | dict(image_size=32, patch_size=8)
    described = dict(text_config=text, vision_config=vision)
    described["architectures"] = ["BlipForConditionalGeneration"]
    config.model = common.published("blip", described) | common.CLIP_STATISTICS
    config.tasks = dict(captioning=dict(length=40, prompt="a picture of", template="{bos}{prompt}"))
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=vision["image_size"]),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words", randaugment=2, magnitude=5.0),
    )
    common.fine_tune(config, arg.folder, name="wordpiece", size=30_522)
    options = dict(beams=3, min_length=5)
    config.evals = dict(val=dict(task="captioning", data=common.coco("val"), options=options))
    config.optimizer = common.adamw(1e-5, weight_decay=0.05)
    config.schedule = dict(name="cosine")
    return common.shrink(config) if arg.smoke else config
