"""SmolVLM-256M, fine-tuned for VQA (arXiv:2504.05299).

    python launch.py --config=configs/vqa/smolvlm.py:folder=PATH --workdir=runs/smolvlm

PATH: a published folder such as HuggingFaceTB/SmolVLM-256M-Instruct. 256,484,928 parameters: SigLIP
B/16 at 512 pixels, whose 1,024 tokens become 64 by pixel shuffle, and SmolLM2-135M. The recipe is
that of the authors' fine-tuning notebook (from memory): one epoch, batch 16, AdamW with learning
rate 1e-4 and weight decay 0.01, 50 steps of warmup, the vision tower locked. The paper reports
DocVQA 58.3, TextVQA 49.9, MMMU 29.0 (from memory); none of it is trained or measured here.
What differs: one view of 512 x 512 pixels per picture, where the published preprocessor cuts large
ones into tiles beside it; a cosine for a linear decay.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def get_config(arg=None):
    """Arguments: folder, a published checkpoint to start from; smoke."""
    arg = common.parse_arg(arg, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 16
    config.total_epochs = 1
    vision = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    vision |= dict(intermediate_size=3072, patch_size=16, image_size=512)
    text = dict(vocab_size=49_280, hidden_size=576, num_hidden_layers=30, num_attention_heads=9)
    text |= dict(num_key_value_heads=3, intermediate_size=1536, max_position_embeddings=8192)
    text |= dict(rms_norm_eps=1e-5, rope_theta=100_000)
    described = dict(image_token_id=49_190, scale_factor=4)
    frame = "{<fake_token_around_image>}"
    image = frame + "{<global-img>}{<image>*64}" + frame
    begin, end = "{<|im_start|>}", "{<end_of_utterance>}"
    lengths = dict(length=160, question_length=128)
    if arg.smoke:
        vision = TINY | dict(patch_size=8, image_size=32)
        text = TINY | dict(vocab_size=512, num_key_value_heads=1, max_position_embeddings=128)
        described = dict(image_token_id=1, scale_factor=2)
        image, begin, end = "{[UNK]*4}", "{bos}", ""
        lengths = dict(length=48, question_length=32)
    described |= dict(vision_config=vision, text_config=text | dict(model_type="llama"))
    config.model = common.published("smolvlm", described)
    template = begin + "User:" + image + "{prompt}" + end + "\nAssistant:"
    config.tasks = dict(vqa=dict(name="vqa_generation", template=template, **lengths))
    config.data = dict(train=common.vqav2("train"))
    config.data.image = dict(size=vision["image_size"], method="lanczos")
    common.fine_tune(config, arg.folder, name="bpe", size=49_152)
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation")))
    config.optimizer = common.adamw(1e-4, frozen=["vision"])
    config.schedule = dict(name="cosine", warmup_steps=50)
    return common.shrink(config) if arg.smoke else config
