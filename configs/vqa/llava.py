"""LLaVA-1.5 instruction tuning (arXiv:2310.03744).

    python launch.py --config=configs/vqa/llava.py:stage=1,folder=PATH --workdir=runs/llava_1
    python launch.py --config=configs/vqa/llava.py:stage=2,folder=PATH --workdir=runs/llava_2

PATH: a published folder such as llava-hf/llava-1.5-7b-hf. 7,063,427,072 parameters; 7,062,902,784
with `rows=32000`, the authors' own table of words, and 13,351,494,656 with `large`. The authors'
recipe: stage 1 trains the projector alone (558k captions, batch 256, learning rate 1e-3), stage 2
all but the vision tower (665k conversations, batch 128, 2e-5), each one epoch with a cosine, 3 %
warmup and no weight decay, 2,048 tokens; their model zoo reports for 7B VQAv2 78.5, GQA 62.0,
VizWiz 50.0, ScienceQA 66.8, TextVQA 58.2, POPE 85.9, MME 1510.7, MMBench 64.3, MM-Vet 31.1.
What differs: the conversations are not fetched by us; both stages train here on COCO captions or
VQAv2 questions in the paper's prompt, one turn each. Pictures are cropped at the centre, as the
published preprocessor does, where training padded them to a square.
"""

from ml_collections import ConfigDict

from configs import common

TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
LARGE = dict(
    hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, intermediate_size=13_824
)
"""Vicuna-13B."""


def get_config(arg=None):
    """Arguments: stage, 1 or 2; folder, a published checkpoint to start from; large, 13B; rows of
    the table of words; smoke; those of `common.at_scale`.
    """
    known = dict(stage=2, folder="", large=False, rows=32_064, smoke=False)
    arg = common.parse_arg(arg, **known, **common.SCALE)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256 if arg.stage == 1 else 128
    config.total_epochs = 1
    text = dict(vocab_size=arg.rows, rms_norm_eps=1e-5) | (LARGE if arg.large else {})
    described = dict(text_config=text)
    size, image = 336, "<image>*576"
    if arg.smoke:
        vision = TINY | dict(image_size=32, patch_size=8)
        text = TINY | dict(vocab_size=512, max_position_embeddings=96)
        described = dict(text_config=text, vision_config=vision, image_token_index=1)
        size, image = 32, "[UNK]*16"
    config.model = common.published("llava", described) | common.CLIP_STATISTICS
    before = "{bos}USER: {" + image + "}\n"
    if arg.stage == 1:
        task = dict(captioning=dict(length=2048 if size > 32 else 64, template=before))
        config.data = dict(train=common.coco("train"))
        evals = dict(task="captioning", data=common.coco("val"))
    else:
        lengths = dict(length=2048, question_length=768) if size > 32 else dict(length=64)
        lengths |= {} if size > 32 else dict(question_length=48)
        ask = before + "{prompt}\nAnswer the question using a single word or phrase. ASSISTANT:"
        task = dict(vqa=dict(name="vqa_generation", template=ask, **lengths))
        config.data = dict(train=common.vqav2("train"))
        evals = dict(task="vqa", data=common.vqav2("validation"))
    config.tasks = task
    config.data.image = dict(size=size, fit="crop")
    common.fine_tune(config, arg.folder, name="bpe", size=32_000)
    config.evals = dict(val=evals)
    rate, frozen = (1e-3, ["vision", "decoder"]) if arg.stage == 1 else (2e-5, ["vision"])
    config.optimizer = common.adamw(rate, weight_decay=0.0, frozen=frozen)
    config.schedule = dict(name="cosine", warmup_percent=3)
    common.at_scale(config, arg)
    return config
