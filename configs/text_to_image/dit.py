"""Text to image by flow matching with a Diffusion Transformer (DiT, arXiv:2212.09748).

    python launch.py --config=configs/text_to_image/dit.py --workdir=runs/dit
    python launch.py --mode=predict --workdir=runs/dit --text="a red circle" --out=x.png

Straight paths from noise to the pixels of a scene (rectified flow, arXiv:2209.03003; flow matching,
arXiv:2210.02747) in 64 patches of 4 x 4, the text steering every layer twice: its vector by
adaLN-Zero, its tokens by cross-attention. The network says where the path ends (arXiv:2511.13720).
With `tokenizer=WORKDIR`, of tokenizer_vq.py, in that tokenizer's latent space.

After 3,500 steps, 13 minutes on two cores (`python -m benchmarks.drawing runs/dit
--judge=runs/quickstart`, 64 prompts each, seen and held-out pairs of colour and shape), the share
of pictures with just the objects that the prompt names, beside that of the training picture with
the most similar caption and of pictures of other prompts:
    one object      0.125 and 0.062    nearest 0.969 and 0.000    other prompts 0.078 and 0.016
    whole captions  0.016 and 0.016    nearest 0.516 and 0.000    other prompts 0.000 and 0.000
All colours are right in 0.734 and 0.719 of the pictures of one object and 0.438 and 0.469 of those
of captions; two objects stand in their relation in 0.016 and 0.000 (nearest 0.109 and 0.000).
Outlines are still in pieces after so few examples. Frechet distance of the quickstart's features,
n = 64: 0.139 and 0.138; of the nearest pictures 0.047 and 0.067, of true ones 0.042 and 0.078.

`size=S`, B, L or XL is the paper's network for ImageNet's classes on 32 x 32 x 4 latents of 256
pixels, patches of 2: 32,865,056, 130,315,808, 457,840,672 or 674,834,720 parameters beside those of
the tokenizer. Published, XL after 7 million steps of 256: FID 2.27 with guidance.
What differs there: the paper learns diffusion with variances, whose output channels are kept but
not trained; its latents are those of a KL autoencoder, here of a VQ one that is as small.
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing

SIZES = {
    "S": dict(width=384, layers=12, heads=6, mlp_width=1536),
    "B": dict(width=768, layers=12, heads=12, mlp_width=3072),
    "L": dict(width=1024, layers=24, heads=16, mlp_width=4096),
    "XL": dict(width=1152, layers=28, heads=16, mlp_width=4608),
}
"""Table 1 of the paper."""


def get_config(arg=None):
    """Arguments: steps; tokenizer, the workdir of a trained one; fsq, it is that of
    tokenizer_fsq.py; scale, one over the deviation of its vectors; size, one of the paper's; smoke.
    """
    known = dict(steps=3500, tokenizer="", fsq=False, scale=1.0, size="", smoke=False)
    arg = common.parse_arg(arg, **known)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256 if arg.size else 32
    config.total_steps = arg.steps
    if arg.size:
        return imagenet(config, arg)
    network = dict(width=160, layers=4, heads=5, mlp_width=640)
    if arg.smoke:
        network = dict(width=16, layers=1, heads=2, mlp_width=32)
    network |= dict(size=drawing.SIDE, channels=3, patch=4, parts=("self", "cross", "mlp"))
    text = drawing.text(arg.smoke) | dict(pooling="mean")
    config.model = dict(name="flow_generator", predicts="image", text=text)
    frozen = []
    if arg.tokenizer:
        tokenizer = drawing.tokenizer("fsq" if arg.fsq else "vq", arg.smoke)
        quantizer = tokenizer["quantizer"]
        network |= dict(size=8, channels=quantizer.get("width", 3), patch=1)
        config.model.update(tokenizer=tokenizer, scale=arg.scale)
        frozen = ["tokenizer/.*"]
    config.model.network = network
    config.tasks = dict(flow_matching=dict(labels=(), length=32))
    config.evals = drawing.evals("flow_matching", arg.smoke)
    config.optimizer = common.adamw(1.5e-3, betas=(0.9, 0.99), ema=0.998, frozen=frozen)
    drawing.start_tokenizer(config, arg.tokenizer, skip=["text/.*", "network/.*", "pooled/.*"])
    return drawing.finish(config, arg.smoke)


def imagenet(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """The paper's network, objective apart, on ImageNet as prepared by `tfds build imagenet2012`
    with file_format=array_record.
    """
    network = SIZES[arg.size] | dict(size=32, channels=4, patch=2, learned_sigma=True)
    latents = dict(channels=128, multipliers=(1, 2, 2, 4), latent=256, attention=(3,))
    latents |= dict(quantizer=dict(name="vq", codes=16384, width=4, decay=None))
    config.model = dict(name="flow_generator", classes=1000, network=network, tokenizer=latents)
    config.model.scale = arg.scale
    fields = dict(id="file_name", image="image", label="label")
    named = dict(name="tfds", dataset="imagenet2012", fields=fields)
    data = lambda split: named | dict(split=split)
    config.data = dict(train=data("train"), image=dict(size=256), augment=dict(flip="plain"))
    config.tasks = dict(flow_matching=dict())
    config.evals = dict(test=dict(task="flow_matching", data=data("validation[:5000]")))
    config.optimizer = common.adamw(1e-4, weight_decay=0.0, ema=0.9999, frozen=["tokenizer/.*"])
    config.schedule = dict(name="constant")
    skip = ["network/.*", "label/.*"]
    drawing.start_tokenizer(config, arg.tokenizer, skip=skip)
    return config
