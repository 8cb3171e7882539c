"""BLIP-base, fine-tuned for VQA (arXiv:2201.12086).

    python launch.py --config=configs/vqa/blip.py:folder=PATH --workdir=runs/blip_vqa

PATH: a published folder such as Salesforce/blip-vqa-base. 361,230,140 parameters: the question goes
through a text encoder that looks at the image, the answer is written by a decoder that looks at
both. The authors' recipe: 480 pixels, 10 epochs, batch 256, AdamW with learning rate 2e-5 and
weight decay 0.05, a cosine, RandomResizedCrop(0.5, 1), flips; dropout 0.1 (from memory). Their
library reports VQAv2 78.23 / 78.29 (test-dev / test-standard).
What differs: the commonest answer of a question is learned, not all of them by their weights;
answers are written freely, where the authors rank a list of 3,128; no Visual Genome questions.
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
    config.total_epochs = 10
    text = dict(num_attention_heads=12, encoder_hidden_size=768)
    vision, size = dict(image_size=384, patch_size=16), 480
    if arg.smoke:
        text = TINY | dict(vocab_size=512, max_position_embeddings=64, encoder_hidden_size=32)
        vision, size = TINY | dict(image_size=24, patch_size=8), 32
    described = dict(text_config=text, vision_config=vision)
    described["architectures"] = ["BlipForQuestionAnswering"]
    config.model = common.published("blip", described) | common.CLIP_STATISTICS
    config.model.vision.resize = "bicubic"
    config.model.text.dropout = config.model.decoder.dropout = 0.1
    task = dict(name="vqa_generation", question_to="text", question_length=35, length=12)
    config.tasks = dict(vqa=task)
    config.data = dict(
        train=common.vqav2("train"),
        image=dict(size=size),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words"),
    )
    common.fine_tune(config, arg.folder, name="wordpiece", size=30_522)
    options = dict(beams=3)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation"), options=options))
    config.optimizer = common.adamw(2e-5, weight_decay=0.05)
    config.schedule = dict(name="cosine")
    return common.shrink(config) if arg.smoke else config
