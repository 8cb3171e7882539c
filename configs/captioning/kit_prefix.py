"""A prefix captioner of real parts, as ClipCap (arXiv:2111.09734) and LLaVA (arXiv:2304.08485)
have it: a locked EfficientNet-Lite0, a trained projector, a locked SmolLM2-135M.

    python -m vlm_jax.data.prepare kit
    python -m vlm_jax.data.prepare emoji --size 224
    python launch.py --config=configs/captioning/kit_prefix.py --workdir=runs/kit_prefix

138,956,224 parameters, of which 1,070,208 are trained: two dense layers that turn each of the 49
image tokens into something that the language model reads as a word. The vision encoder runs once
over the data. `:side=2` averages blocks of 2 x 2 of them first and has one layer, 738,560 trained
parameters: a third of the time on a CPU. What differs from LLaVA: the language model stays locked,
and the captions are the names of drawings.
"""

from ml_collections import ConfigDict

from configs import common

FROZEN = ["vision", "decoder"]


def get_config(arg=None):
    """Arguments: steps; batch; side, of the blocks of image tokens that are averaged (1: none, and
    two layers instead of one); texts, "label" or "tags"; smoke.
    """
    arg = common.parse_arg(arg, steps=400, batch=16, side=1, texts="label", smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = arg.batch
    config.total_steps = arg.steps
    parts = common.kit(arg.smoke)
    width = parts["decoder"]["width"]
    connector = dict(name="mlp", widths=(width, width))
    if arg.side > 1:
        connector = dict(name="pool", side=arg.side, width=width)
    config.model = dict(
        vision=parts["vision"],
        connector=connector,
        decoder=parts["decoder"] | dict(memory="prepend", memory_projection=False),
        **common.LITE_STATISTICS,
    )
    config.tasks = dict(captioning=dict(length=14, template="This picture shows:\n{prompt}"))
    common.kit_captioning(config, arg.texts, FROZEN)
    if arg.smoke:
        common.shrink(config)
        del config.init
        config.data.image.size = 32
        return config
    config.init.skip = ["vision/head"]
    return config
