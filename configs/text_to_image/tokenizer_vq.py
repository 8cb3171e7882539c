"""An image tokenizer with a learned codebook: VQGAN's autoencoder (arXiv:2012.09841).

    python launch.py --config=configs/text_to_image/tokenizer_vq.py --workdir=runs/tokenizer

8 x 8 tokens of 2,048 codes for a scene of 32 pixels, the codebook a moving average whose unused
codes are revived. After 2,500 steps, 7 minutes on two cores: PSNR 32.5 dB (20.9 for each picture's
mean colour), 95 % of the codes in use with a perplexity of 1,371, and a parser still finds all
objects with their colours and shapes in 61 % of the pictures, which bounds what a generator over
these tokens can draw; 9 % with 256 codes for pictures of 64 pixels.

With `white`, for scenes on white paper, a token sees its own 4 x 4 pixels alone, so that all paper
is one token: PSNR 33.7 dB (19.4), 61 % of the pictures, a perplexity of 5.8. What sees all of the
picture writes its objects into the paper's tokens, too, 1,343 and 75 %: good for a picture, bad for
who has to guess them from a text.

With `paper`, the published network for 256 pixels, f = 16 and 1,024 codes that learn by gradients:
72,141,699 parameters; 76,073,859 with `paper,codes=16384`. Published, on ImageNet: reconstruction
FID 7.94 and 4.98.
What differs: no perceptual and no adversarial part in the loss.
"""

from ml_collections import ConfigDict

from configs import common
from configs.text_to_image import common as drawing


def get_config(arg=None):
    """Arguments: steps; white, scenes on white paper; paper and codes, the published network;
    smoke.
    """
    arg = common.parse_arg(arg, steps=2500, white=False, paper=False, codes=1024, smoke=False)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 32
    config.total_steps = arg.steps
    network = (
        drawing.paper(arg.codes) if arg.paper else drawing.tokenizer("vq", arg.smoke, arg.white)
    )
    config.model = dict(name="image_tokenizer") | network
    config.tasks = dict(image_tokens=dict() if arg.paper else drawing.EDGES)
    config.evals = dict(
        test=dict(task="image_tokens", data=drawing.scenes("test", arg.white, length=256))
    )
    config.optimizer = common.adamw(2e-3, betas=(0.9, 0.99))
    config = drawing.finish(config, arg.smoke, arg.white)
    if arg.paper:
        config.data.image.size = 256
    return config
