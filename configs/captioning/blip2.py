"""BLIP-2 with OPT-2.7B or Flan-T5-XL, fine-tuned for COCO captions (arXiv:2301.12597).

    python launch.py --config=configs/captioning/blip2.py:folder=PATH --workdir=runs/blip2
    python launch.py --config=configs/captioning/blip2.py:t5,folder=PATH --workdir=runs/blip2_t5

PATH: a published folder such as Salesforce/blip2-opt-2.7b or Salesforce/blip2-flan-t5-xl. With OPT
3,744,679,936 parameters and 50,272 words; newer folders have 50,304 (`:rows=50304`), 3,744,761,856.
With T5, whose encoder reads picture and prompt, 3,942,446,592. The authors' recipe: 364 pixels, 5
epochs, batch 256, AdamW with learning rate 1e-5 and weight decay 0.05, a cosine, the prompt
"a photo of", five beams, 8 to 30 tokens; vision tower and Q-Former are trained, the language model
is locked. The paper reports COCO CIDEr 145.8 with OPT-2.7B and 144.5 with Flan-T5-XL (from memory).
What differs: RandomResizedCrop(0.5, 1) and flips that exchange the words left and right stand for
the authors' augmentation; no smaller rates for lower layers of the vision tower.
"""

from ml_collections import ConfigDict

from configs import common

LOCKED = ["decoder/embed", "decoder/transformer"]
LOCKED_T5 = ["decoder", "text/embedding", "text/relative", "text/transformer"]
"""The language model, but not the projection into it."""


def get_config(arg=None):
    """Arguments: rows, of OPT's table of words; t5, Flan-T5-XL in OPT's place; folder, a published
    checkpoint to start from; smoke; those of `common.at_scale`.
    """
    arg = common.parse_arg(arg, rows=50_272, t5=False, folder="", smoke=False, **common.SCALE)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256
    config.total_epochs = 5
    config.model = model(arg.rows, arg.t5, arg.smoke)
    task = dict(length=36, prompt="a photo of", template="{bos}{prompt}")
    if arg.t5:
        task |= dict(template="{pad}", text_template="{prompt}{eos}", text_length=8)
    config.tasks = dict(captioning=task)
    config.data = dict(
        train=common.coco("train"),
        image=dict(size=32 if arg.smoke else 364),
        augment=dict(crop_scale=(0.5, 1.0), flip="swap_words"),
    )
    common.fine_tune(config, arg.folder, name="bpe", size=32_100 if arg.t5 else 50_265)
    options = dict(beams=5, min_length=8)
    config.evals = dict(val=dict(task="captioning", data=common.coco("val"), options=options))
    config.optimizer = common.adamw(1e-5, weight_decay=0.05, frozen=LOCKED_T5 if arg.t5 else LOCKED)
    config.schedule = dict(name="cosine", warmup_steps=1000)
    common.at_scale(config, arg)
    return config


def model(rows, t5, smoke):
    """What `eyes` describes, and OPT or Flan-T5."""
    text = dict(hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, ffn_dim=10_240)
    text |= dict(vocab_size=rows)
    if smoke:
        text = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64)
        text |= dict(vocab_size=512, max_position_embeddings=128)
    if t5:
        text = dict(d_model=2048, num_layers=24, num_heads=32, d_kv=64, d_ff=5120)
        text = dict(d_model=32, num_layers=2, num_heads=2, d_kv=16, d_ff=64) if smoke else text
        text |= dict(model_type="t5", vocab_size=512 if smoke else 32_128)
        text |= dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    described = eyes(smoke) | dict(text_config=text)
    made = common.published("blip-2", described) | common.CLIP_STATISTICS
    made["vision"] |= dict(resize="bicubic")
    return made


def eyes(smoke):
    """EVA g/14 at 224 pixels (the position table is resized to others) and 32 queries."""
    vision = dict(hidden_size=1408, num_hidden_layers=39, num_attention_heads=16)
    vision |= dict(intermediate_size=6144, image_size=224, patch_size=14)
    queries = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    queries |= dict(intermediate_size=3072)
    if smoke:
        queries = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        queries |= dict(intermediate_size=64)
        vision = queries | dict(image_size=24, patch_size=8)
    return dict(vision_config=vision, qformer_config=queries)
