"""Qwen2-VL 2B, fine-tuned for VQA (arXiv:2409.12191).

    python launch.py --config=configs/vqa/qwen2_vl.py:folder=PATH --workdir=runs/qwen2_vl

PATH: a published folder such as Qwen/Qwen2-VL-2B-Instruct. 2,208,985,600 parameters: a 32-layer
vision tower with rotary positions, 2 x 2 patches to a token, and Qwen2-1.5B, whose positions have
frame, row and column. As in the paper's third stage the vision tower is locked (from memory); it
gives neither batch nor learning rate, those here are ours. The model card reports DocVQA 90.1,
TextVQA 79.7, ChartQA 73.5, MMMU 41.1; none of it is trained or measured here.
What differs: every picture is stretched to 448 x 448 pixels (256 tokens), where the paper keeps the
picture's own size and proportions; no video.
"""

from ml_collections import ConfigDict

from configs import common

SYSTEM = "{<|im_start|>}system\nYou are a helpful assistant.{<|im_end|>}\n{<|im_start|>}user\n"
IMAGE = "{<|vision_start|>}{<|image_pad|>*256}{<|vision_end|>}"
ANSWER = "{<|im_end|>}\n{<|im_start|>}assistant\n"
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    config.total_epochs = 1
    vision = dict(depth=32, embed_dim=1280, num_heads=16, patch_size=14, hidden_size=1536)
    text = dict(vocab_size=151_936, hidden_size=1536, num_hidden_layers=28)
    text |= dict(num_attention_heads=12, num_key_value_heads=2, intermediate_size=8960)
    text |= dict(max_position_embeddings=32_768, rms_norm_eps=1e-6, rope_theta=1_000_000.0)
    size, turning, marks = 448, [16, 24, 24], 151_655
    template = SYSTEM + IMAGE + "{prompt}" + ANSWER
    lengths = dict(length=384, question_length=352)
    if arg.smoke:
        vision = dict(depth=2, embed_dim=32, num_heads=2, patch_size=8, hidden_size=32)
        text = TINY | dict(vocab_size=512, num_key_value_heads=1, max_position_embeddings=128)
        size, turning, marks = 32, [2, 3, 3], 1
        template, lengths = "{bos}{[UNK]*4}{prompt}", dict(length=48, question_length=32)
    described = text | dict(vision_config=vision, image_token_id=marks, tie_word_embeddings=True)
    described["rope_scaling"] = dict(type="mrope", mrope_section=turning)
    config.model = common.published("qwen2_vl", described) | common.CLIP_STATISTICS
    config.tasks = dict(vqa=dict(name="vqa_generation", template=template, blocked=8192, **lengths))
    config.data = dict(train=common.vqav2("train"), image=dict(size=size))
    common.fine_tune(config, arg.folder, name="bpe", size=151_643)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    config.optimizer = common.adamw(1e-5, weight_decay=0.1, frozen=["vision"])
    config.schedule = dict(name="cosine", warmup_percent=3)
    return common.shrink(config) if arg.smoke else config
