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

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common
from vlm_jax.kwargs import lookup


class Size(NamedTuple):
    """text, vision: sections of a published config.json; described: the rest of it. begin, image,
    end: of a user's turn, its picture and its question. lengths: tokens of a question, and of the
    answer behind it.
    """

    text: dict[str, Any]
    vision: dict[str, Any]
    described: dict[str, int]
    begin: str
    image: str
    end: str
    lengths: tuple[int, int] = (128, 32)


def framed(view: str) -> str:
    """A picture's tokens as the published templates have them."""
    frame = "{<fake_token_around_image>}"
    return frame + view + frame


END = "{<end_of_utterance>}"
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
SMALL = dict(vocab_size=49_280, max_position_embeddings=8192, rms_norm_eps=1e-5)
SMALL |= dict(rope_theta=100_000)
SMALLEST = Size(
    text=SMALL
    | dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9)
    | dict(num_key_value_heads=3, intermediate_size=1536),
    vision=dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    | dict(intermediate_size=3072, patch_size=16, image_size=512),
    described=dict(image_token_id=49_190, scale_factor=4),
    begin="{<|im_start|>}",
    image=framed("{<global-img>}{<image>*64}"),
    end=END,
)
SIZES = {
    "256m": SMALLEST,
    "500m": SMALLEST._replace(
        text=SMALL
        | dict(hidden_size=960, num_hidden_layers=32, num_attention_heads=15)
        | dict(num_key_value_heads=5, intermediate_size=2560)
    ),
    "8b": Size(
        text=dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)
        | dict(num_key_value_heads=8, intermediate_size=14_336, vocab_size=128_259)
        | dict(max_position_embeddings=10_240, rms_norm_eps=1e-5, rope_theta=500_000),
        vision=dict(hidden_size=1152, num_hidden_layers=27, num_attention_heads=16)
        | dict(intermediate_size=4304, patch_size=14, image_size=364),
        described=dict(image_token_id=128_257, scale_factor=2),
        begin="{<|begin_of_text|>}",
        image=framed("<global-img>{<image>*169}"),
        end=END,
        lengths=(256, 32),
    ),
}
MINIATURE = Size(
    text=TINY | dict(vocab_size=512, num_key_value_heads=1, max_position_embeddings=128),
    vision=TINY | dict(patch_size=8, image_size=32),
    described=dict(image_token_id=1, scale_factor=2),
    begin="{bos}",
    image="{[UNK]*4}",
    end="",
    lengths=(32, 16),
)


def get_config(arg=None):
    """Arguments: size, 256m, 500m or 8b; folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, size="256m", folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_epochs = 1
    size = MINIATURE if arg.smoke else lookup(SIZES, arg.size, "config argument size")
    parts = dict(vision_config=size.vision, text_config=size.text | dict(model_type="llama"))
    config.model = common.published("smolvlm", size.described | parts)
    template = size.begin + "User:" + size.image + "{prompt}" + size.end + "\nAssistant:"
    lengths = dict(length=sum(size.lengths), question_length=size.lengths[0])
    config.tasks = dict(vqa=dict(name="vqa_generation", template=template, **lengths))
    config.data = dict(train=common.vqav2("train"))
    config.data.image = dict(size=size.vision["image_size"], method="lanczos")
    common.fine_tune(config, arg.folder, name="bpe", size=size.text["vocab_size"] - 128)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    config.optimizer = common.adamw(1e-4, frozen=["vision"])
    config.schedule = dict(name="cosine", warmup_steps=50)
    return common.shrink(config) if arg.smoke else config
