"""Text to image, token after token, as DALL-E (arXiv:2102.12092) and Parti (arXiv:2206.10789) do.

    python launch.py --config=configs/text_to_image/tokenizer_vq.py:white --workdir=runs/tokenizer
    python launch.py --config=configs/text_to_image/autoregressive.py:tokenizer=runs/tokenizer \
        --workdir=runs/drawing
    python launch.py --mode=predict --workdir=runs/drawing --text="a red circle" --out=x.png

A text encoder is read before the 64 image tokens by the one causal language model, whose positions
are rows and columns; a tenth of the texts is left out in training, for classifier-free guidance. As
in masked.py, scenes are on white paper, and a token tells of its own 4 x 4 pixels alone.

After 3,300 steps at 70 pictures a second on two cores (`python -m benchmarks.drawing runs/drawing
--examples=256`, as many prompts of each kind, seen and held-out pairs of colour and shape), the
share of pictures with just the objects that the prompt names, beside that of the training picture
with the most similar caption and of pictures of other prompts:
    one object      0.754 and 0.367    nearest 0.953 and 0.000    other prompts 0.023 and 0.000
    whole captions  0.320 and 0.125    nearest 0.445 and 0.004    other prompts 0.000 and 0.004
All colours are right in 0.883 and 0.719 of the pictures of one object and 0.551 and 0.422 of those
of captions, two objects in a relation in 0.020 and 0.000 (nearest 0.078 and 0.000). Shapes suffer
most, already in the tokens: see tokenizer_vq.py. Guidance and temperature are the best of nine
that were tried on a quarter of these prompts. With `white=0`, on paper of any colour with a grain
and with tokens that see all of the picture, one object is right in 0.188 and 0.078 of 64, captions
in 0.062 and 0.031 (guidance 3, temperature 0.7).
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing


def get_config(arg=None):
    """Arguments: tokenizer, the workdir of a trained one; fsq, it is that of tokenizer_fsq.py;
    white, scenes on white paper, also the tokenizer's; steps; smoke.
    """
    arg = common.parse_arg(arg, tokenizer="", fsq=False, white=True, steps=3300, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    return drawing.generator(config, arg, drawing=dict(guidance=2.0, temperature=0.5))
