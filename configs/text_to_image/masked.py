"""Text to image in a dozen rounds, as MaskGIT (arXiv:2202.04200) and Muse (arXiv:2301.00704) do.

    python launch.py --config=configs/text_to_image/tokenizer_vq.py --workdir=runs/tokenizer
    python launch.py --config=configs/text_to_image/masked.py:tokenizer=runs/tokenizer \
        --workdir=runs/masked
    python launch.py --mode=predict --workdir=runs/masked --text="a red circle" --out=x.png

The network of autoregressive.py, which here guesses hidden tokens from all others at once.

After 3,300 steps it does not follow its text yet (`python -m benchmarks.drawing runs/masked
--temperature=0.7`, 64 prompts each): 0.016 of the pictures of one object are right for seen pairs
of colour and shape and 0.000 for held-out ones, as for other prompts' pictures (0.000 and 0.000),
beside 0.969 and 0.000 of the nearest training picture; captions and two objects never. The text
tells it little about a token, 5.62 nats with it and 5.68 with another's; the grain of the paper, of
which no text tells, is not to blame: on even paper (noise=0 for the scenes, also of the tokenizer)
they are 5.13 and 5.24 nats, and none of 32 pictures of one object is right.
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing


def get_config(arg=None):
    """Arguments: tokenizer, the workdir of a trained one; fsq, it is that of tokenizer_fsq.py;
    steps; smoke.
    """
    arg = common.parse_arg(arg, tokenizer="", fsq=False, steps=3300, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    return drawing.generator(config, arg, parallel=True)
