"""Text to image, token after token, as DALL-E (arXiv:2102.12092) and Parti (arXiv:2206.10789) do.

    python launch.py --config=configs/text_to_image/tokenizer_vq.py --workdir=runs/tokenizer
    python launch.py --config=configs/text_to_image/autoregressive.py:tokenizer=runs/tokenizer \
        --workdir=runs/drawing
    python launch.py --mode=predict --workdir=runs/drawing --text="a red circle" --out=x.png

A text encoder is read before the 64 image tokens by the one causal language model, whose positions
are rows and columns; a tenth of the texts is left out in training, for classifier-free guidance.
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing


def get_config(arg=None):
    """Arguments: tokenizer, the workdir of a trained one; fsq, it is that of tokenizer_fsq.py;
    steps; smoke.
    """
    arg = common.parse_arg(arg, tokenizer="", fsq=False, steps=3000, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 64
    config.total_steps = arg.steps
    return drawing.generator(config, arg, parallel=False)
