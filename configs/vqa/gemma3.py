"""Gemma 3 4B, fine-tuned for VQA (arXiv:2503.19786).

    python launch.py --config=configs/vqa/gemma3.py:folder=PATH --workdir=runs/gemma3

PATH: a published folder such as google/gemma-3-4b-pt. 4,300,079,472 parameters: SigLIP So400m/14 at
896 pixels, its 4,096 tokens averaged to 256, and 34 layers of which every sixth looks further back
than 1,024 tokens. The report gives no recipe for fine-tuning: batch, epochs and rates here are
those of PaliGemma's transfers, the vision tower stays locked as in pre-training (from memory). It
reports, for the pre-trained model, VQAv2 63.9 and COCO CIDEr 102 (from memory), a few examples in
the prompt and no fine-tuning, so no number is expected.
What differs: one square view per picture, no pan and scan.
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
    vision = dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16)
    vision |= dict(intermediate_size=4304, patch_size=14, image_size=896, vision_use_head=False)
    text = dict(hidden_size=2560, num_hidden_layers=34, num_attention_heads=8)
    text |= dict(num_key_value_heads=4, intermediate_size=10_240, sliding_window=1024)
    text |= dict(vocab_size=262_208, rope_scaling=dict(rope_type="linear", factor=8.0))
    image = "{<start_of_image>}{<image_soft_token>*256}{<end_of_image>}"
    described = dict(image_token_index=262_144, mm_tokens_per_image=256)
    lengths = dict(length=384, question_length=352)
    if arg.smoke:
        vision = TINY | dict(patch_size=8, image_size=32, vision_use_head=False)
        text = TINY | dict(vocab_size=512, head_dim=16, num_key_value_heads=1, sliding_window=8)
        text |= dict(sliding_window_pattern=2, max_position_embeddings=128)
        image, described = "{[UNK]*4}", dict(image_token_index=1, mm_tokens_per_image=4)
        lengths = dict(length=48, question_length=32)
    described |= dict(vision_config=vision, text_config=text)
    config.model = common.published("gemma3", described)
    template = "{bos}\n\n" + image + "\n\nanswer en {prompt}\n"
    config.tasks = dict(vqa=dict(name="vqa_generation", template=template, blocked=8192, **lengths))
    config.data = dict(train=common.vqav2("train"))
    config.data.image = dict(size=vision["image_size"], method="bilinear")
    common.fine_tune(config, arg.folder, name="bpe", size=262_144)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    config.optimizer = common.adamw(1e-5, weight_decay=1e-6, frozen=["vision"])
    config.schedule = dict(name="cosine", warmup_percent=5)
    return common.shrink(config) if arg.smoke else config
