"""Text to image in a dozen rounds, as MaskGIT (arXiv:2202.04200) and Muse (arXiv:2301.00704) do.

    python launch.py --config=configs/text_to_image/tokenizer_vq.py:white --workdir=runs/tokenizer
    python launch.py --config=configs/text_to_image/masked.py:tokenizer=runs/tokenizer \
        --workdir=runs/masked
    python launch.py --mode=predict --workdir=runs/masked --text="a red circle" --out=x.png

The network of autoregressive.py, which here guesses hidden tokens from all others at once. White
paper and tokens of 4 x 4 pixels alone: where paper has a colour and a grain, or tokens tell of
their surroundings, all 64 tokens of a picture are hard to guess (50 different ones stand for the
paper of one picture), and the few that a text tells of hardly count; 5.62 nats a token, 1.16 now.

After 3,300 steps it has learned how many objects a text wants, and little more (`python -m
benchmarks.drawing runs/masked`, 64 prompts each, seen and held-out pairs of colour and shape); the
surest guesses are paper, so what stays of a round is better left to chance. Share of pictures with
as many objects, and with the right ones, beside that of the nearest training picture and of
pictures of other prompts:
    one object      0.891 and 0.875, right 0.047 and 0.016    nearest right 0.938 and 0.000
    whole captions  0.688 and 0.688, right 0.031 and 0.000    nearest right 0.516 and 0.000
    other captions  0.156 and 0.219, right 0.000 and 0.016
Two objects are never right (nearest 0.109 and 0.000). With `least=0.5`, the recipe of the paper,
one object is right in 0.016 and 0.047, captions in 0.016 and 0.000: no better.
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing


def get_config(arg=None):
    """Arguments: tokenizer, the workdir of a trained one; fsq, it is that of tokenizer_fsq.py;
    white, scenes on white paper, also the tokenizer's; least, the share of tokens that is hidden in
    training at least; steps; smoke.
    """
    known = dict(tokenizer="", fsq=False, white=True, least=0.0, steps=3300, smoke=False)
    arg = common.parse_arg(arg, **known)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    way = dict(temperature=1.0, choice_temperature=20.0)
    hidden = dict(parallel=True, hidden_least=arg.least)
    return drawing.generator(config, arg, drawing=way, **hidden)
