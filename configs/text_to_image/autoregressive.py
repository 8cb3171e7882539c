"""Text to image, token after token, as DALL-E (arXiv:2102.12092) and Parti (arXiv:2206.10789) do.

    python launch.py --config=configs/text_to_image/tokenizer_vq.py --workdir=runs/tokenizer
    python launch.py --config=configs/text_to_image/autoregressive.py:tokenizer=runs/tokenizer \
        --workdir=runs/drawing
    python launch.py --mode=predict --workdir=runs/drawing --text="a red circle" --out=x.png

A text encoder is read before the 64 image tokens by the one causal language model, whose positions
are rows and columns; a tenth of the texts is left out in training, for classifier-free guidance.

After 3,300 steps, 14 minutes on two cores (`python -m benchmarks.drawing runs/drawing
--temperature=0.7`, 64 prompts each, seen and held-out pairs of colour and shape), the share of
pictures with just the objects that the prompt names, beside that of the training picture with the
most similar caption and of pictures of other prompts:
    one object      0.188 and 0.078    nearest 0.969 and 0.000    other prompts 0.031 and 0.000
    whole captions  0.062 and 0.031    nearest 0.516 and 0.000    other prompts 0.000 and 0.000
All colours are right in 0.609 and 0.641 of the pictures of one object and 0.297 and 0.375 of those
of captions, two objects in a relation never (nearest 0.109 and 0.000). Shapes suffer most, already
in the tokens: see tokenizer_vq.py.
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing


def get_config(arg=None):
    """Arguments: tokenizer, the workdir of a trained one; fsq, it is that of tokenizer_fsq.py;
    white, scenes on white paper, also the tokenizer's; steps; smoke.
    """
    arg = common.parse_arg(arg, tokenizer="", fsq=False, white=False, steps=3300, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    return drawing.generator(config, arg, parallel=False)
