"""An image tokenizer without a codebook: finite scalar quantization (arXiv:2309.15505).

    python launch.py --config=configs/text_to_image/tokenizer_fsq.py --workdir=runs/tokenizer_fsq

8 x 8 tokens of 8 x 8 x 8 x 4 = 2,048 ids for a scene of 32 pixels; otherwise that of
tokenizer_vq.py.
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing


def get_config(arg=None):
    """Arguments: steps; white, as that of tokenizer_vq.py; smoke."""
    arg = common.parse_arg(arg, steps=2500, white=False, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    config.model = dict(name="image_tokenizer") | drawing.tokenizer("fsq", arg.smoke, arg.white)
    config.tasks = dict(image_tokens=drawing.EDGES)
    data = drawing.scenes("test", arg.white, length=256)
    config.evals = dict(test=dict(task="image_tokens", data=data))
    config.optimizer = common.adamw(2e-3, betas=(0.9, 0.99))
    return drawing.finish(config, arg.smoke, arg.white)
