"""Cap and CapPa, image captioners as vision learners (arXiv:2306.07915).

    python launch.py --config=configs/captioning/cappa.py --workdir=runs/cap
    python launch.py --config=configs/captioning/cappa.py:parallel --workdir=runs/cappa

ViT-B/16 without a head and a six-layer decoder without biases: 191,668,736 parameters. With
`parallel` this is CapPa: for three quarters of the examples all words of the caption are guessed at
once, from the image alone; 191,669,504 parameters, one more row for the token that the decoder then
reads; 469,495,040 with `parallel,large`, a ViT-L/14. The authors' recipe: batch 8,192, 366,500
steps, Adafactor with learning rate 1e-3 and weight decay 1e-4, 10,000 steps of warmup and a cosine,
gradients clipped at 1, 224 pixels, 64 tokens.
What differs: their 1 billion pairs are not public; this trains on COCO captions.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg=None):
    """Arguments: smoke, parallel, large."""
    arg = common.parse_arg(arg, smoke=False, parallel=False, large=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 8192
    config.total_steps = 366_500
    size = dict(width=768, heads=12, mlp_width=3072)
    vision, decoder = dict(patch=16, layers=12, image_size=224), dict(vocab=32_000, layers=6)
    if arg.large:
        size = dict(width=1024, heads=16, mlp_width=4096)
        vision |= dict(patch=14, layers=24)
    if arg.smoke:
        size = dict(width=32, heads=2, mlp_width=64)
        vision, decoder = dict(patch=8, layers=2, image_size=32), dict(vocab=512, layers=2)
    tower = dict(name="vit", class_token=False, pooling="none", activation="gelu_tanh")
    writer = dict(name="causal_lm", memory="attend", max_length=64, activation="gelu_tanh")
    writer |= dict(norm="layer_unbiased", final_norm="layer", bias=False, tied=False)
    config.model = dict(vision=tower | size | vision, decoder=writer | size | decoder)
    config.tasks = dict(captioning=dict(length=64))
    if arg.parallel:
        config.model.decoder.parallel = True
        config.tasks.captioning.update(parallel=0.75, mask_token=decoder["vocab"])
    config.data = dict(train=common.coco("train"), image=dict(size=vision["image_size"]))
    config.data.tokenizer = dict(name="bpe", size=32_000, lower=True)
    config.evals = dict(val=dict(task="captioning", data=common.coco("val")))
    config.optimizer = common.adamw(1e-3, weight_decay=1e-4, name="adafactor", momentum=0.9)
    config.schedule = dict(name="cosine", warmup_percent=2.73)
    return common.shrink(config) if arg.smoke else config
