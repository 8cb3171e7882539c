"""BLIP-2 with OPT-2.7B or Flan-T5-XL, fine-tuned for VQA (arXiv:2301.12597).

    python launch.py --config=configs/vqa/blip2.py:folder=PATH --workdir=runs/blip2_vqa

PATH: a published folder such as Salesforce/blip2-opt-2.7b, or with `:t5`
Salesforce/blip2-flan-t5-xl. With OPT 3,744,679,936 parameters and 50,272 words; newer folders have
50,304 (`:rows=50304`), 3,744,761,856. With T5 3,942,446,592. The paper's recipe (from memory): 5
epochs, batch 128, AdamW with learning rate 1e-5 and weight decay 0.05, 1,000 steps of warmup and a
cosine, 490 pixels, the prompt "Question: QUESTION Answer:", five beams; vision tower and Q-Former
are trained, the language model is locked. It reports VQAv2 82.2 with its largest model.
What differs: the Q-Former does not read the question; no smaller rates for lower layers of the
vision tower; no Visual Genome questions; 364 pixels as in the captioning recipe.
"""

from ml_collections import ConfigDict

from configs import common
from configs.captioning import blip2


def get_config(arg=None):
    """Arguments: rows, of OPT's table of words; t5, Flan-T5-XL in OPT's place; folder, a published
    checkpoint to start from; smoke.
    """
    arg = common.parse_arg(arg, rows=50_272, t5=False, folder="", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    config.total_epochs = 5
    config.model = blip2.model(arg.rows, arg.t5, arg.smoke)
    task = dict(name="vqa_generation", length=48, question_length=32)
    question = "Question: {prompt} Answer:"
    if arg.t5:
        task |= dict(template="{pad}", question_to="text", text_template=question + "{eos}")
    else:
        task |= dict(template="{bos}" + question)
    config.tasks = dict(vqa=task)
    config.data = dict(train=common.vqav2("train"), image=dict(size=32 if arg.smoke else 364))
    common.fine_tune(config, arg.folder, name="bpe", size=32_100 if arg.t5 else 50_265)
    options, frozen = dict(beams=5), blip2.LOCKED_T5 if arg.t5 else blip2.LOCKED
    config.evals = dict(val=dict(task="vqa", data=common.vqav2("validation"), options=options))
    config.optimizer = common.adamw(1e-5, weight_decay=0.05, frozen=frozen)
    config.schedule = dict(name="cosine", warmup_steps=1000)
    return common.shrink(config) if arg.smoke else config
