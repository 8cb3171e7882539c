"""SmolVLM (arXiv:2504.05299) and Idefics3 (arXiv:2408.12637), fine-tuned for VQA.

    python launch.py --config=configs/vqa/smolvlm.py:folder=PATH --workdir=runs/smolvlm
    python launch.py --config=configs/vqa/smolvlm.py:size=8b,folder=PATH --workdir=runs/idefics3

PATH: a published folder such as HuggingFaceTB/SmolVLM-256M-Instruct, or with `size`
SmolVLM-500M-Instruct or HuggingFaceM4/Idefics3-8B-Llama3. A SigLIP tower, whose tokens become a
quarter or a sixteenth as many by pixel shuffle, before a language model:
    256m   256,484,928   B/16 at 512 pixels, 64 tokens a picture, SmolLM2-135M
    500m   507,482,304   the same, SmolLM2-360M
    8b   8,462,086,384   So400m/14 at 364 pixels, 169 tokens a picture, Llama 3
The recipe is that of the authors' fine-tuning notebook (from memory): one epoch, batch 16, AdamW
with learning rate 1e-4 and weight decay 0.01, 50 steps of warmup, the vision tower locked. Reported
(from memory): 256m, DocVQA 58.3, TextVQA 49.9, MMMU 29.0; 8b, DocVQA 87.7, TextVQA 74.9, MMMU 46.6.
None of it is trained or measured here.
What differs: one view per picture, where the published preprocessor cuts large ones into tiles
beside it; a cosine for a linear decay.
"""

from ml_collections import ConfigDict

from configs import common
from vlm_jax.kwargs import lookup

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SMALL = dict(vocab_size=49_280, max_position_embeddings=8192, rms_norm_eps=1e-5)
SMALL |= dict(rope_theta=100_000)
TEXTS = {
    "256m": dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, **SMALL)
    | dict(num_key_value_heads=3, intermediate_size=1536),
    "500m": dict(hidden_size=960, num_hidden_layers=32, num_attention_heads=15, **SMALL)
    | dict(num_key_value_heads=5, intermediate_size=2560),
    "8b": dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)
    | dict(num_key_value_heads=8, intermediate_size=14_336, vocab_size=128_259)
    | dict(max_position_embeddings=10_240, rms_norm_eps=1e-5, rope_theta=500_000),
    "smoke": TINY | dict(vocab_size=512, num_key_value_heads=1, max_position_embeddings=128),
}
BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
BASE |= dict(intermediate_size=3072, patch_size=16, image_size=512)
TOWERS = {
    "256m": BASE,
    "500m": BASE,
    "8b": dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16)
    | dict(intermediate_size=4304, patch_size=14, image_size=364),
    "smoke": TINY | dict(patch_size=8, image_size=32),
}
FRAME, VIEW = "{<fake_token_around_image>}", "{<global-img>}{<image>*64}"
TURN = ("{<|im_start|>}", FRAME + VIEW + FRAME, "{<end_of_utterance>}")
WORDS = {
    "256m": (TURN, dict(image_token_id=49_190, scale_factor=4)),
    "500m": (TURN, dict(image_token_id=49_190, scale_factor=4)),
    "8b": (
        ("{<|begin_of_text|>}", FRAME + "<global-img>{<image>*169}" + FRAME, TURN[2]),
        dict(image_token_id=128_257, scale_factor=2),
    ),
    "smoke": (("{bos}", "{[UNK]*4}", ""), dict(image_token_id=1, scale_factor=2)),
}
"""What begins a turn, stands for a picture and ends a question; how tokens of pictures are made."""


def get_config(arg=None):
    """Arguments: size, 256m, 500m or 8b; folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, size="256m", folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_epochs = 1
    size = "smoke" if arg.smoke else arg.size
    text = lookup(TEXTS, size, "config argument size") | dict(model_type="llama")
    (begin, image, end), described = WORDS[size]
    parts = dict(vision_config=TOWERS[size], text_config=text)
    config.model = common.published("smolvlm", described | parts)
    template = begin + "User:" + image + "{prompt}" + end + "\nAssistant:"
    question = {"smoke": 32, "8b": 256}.get(size, 128)
    lengths = dict(length=question + (16 if arg.smoke else 32), question_length=question)
    config.tasks = dict(vqa=dict(name="vqa_generation", template=template, **lengths))
    config.data = dict(train=common.vqav2("train"))
    config.data.image = dict(size=TOWERS[size]["image_size"], method="lanczos")
    common.fine_tune(config, arg.folder, name="bpe", size=text["vocab_size"] - 128)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    config.optimizer = common.adamw(1e-4, frozen=["vision"])
    config.schedule = dict(name="cosine", warmup_steps=50)
    return common.shrink(config) if arg.smoke else config
