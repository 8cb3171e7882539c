"""The image tokenizers that the configs of this folder share."""

from typing import Any

from configs import common

QUANTIZERS = dict(
    vq=dict(name="vq", codes=2048, width=16), fsq=dict(name="fsq", levels=(8, 8, 8, 4))
)


def tokenizer(quantizer: str, smoke: bool, local: bool = False) -> dict[str, Any]:
    """An autoencoder of 8 x 8 tokens for 32-pixel images, reading patches of 2 x 2 pixels; a
    miniature for smoke tests.

    quantizer: "vq", a codebook of 2,048 vectors, or "fsq", a lattice of as many points. local: a
    token tells of its own 4 x 4 pixels alone.
    """
    size = dict(channels=48, multipliers=(1, 2), blocks=1, attention=(1,), latent=96, groups=16)
    if smoke:
        size |= dict(channels=8, latent=8, groups=4)
    size |= dict(local=2) if local else {}
    return dict(stem=2, quantizer=QUANTIZERS[quantizer]) | size


def paper(codes: int) -> dict[str, Any]:
    """VQGAN with f = 16 as published for ImageNet (arXiv:2012.09841)."""
    return dict(quantizer=dict(name="vq", codes=codes, width=256, decay=None))


SIDE = 32
"""Of a picture, in pixels: the smallest in which all shapes can be told apart."""


EDGES = dict(absolute=0.0, squared=4.0)
"""Of the loss of a tokenizer of scenes: absolute differences are mostly noise of the paper's, and
small shapes are forgotten for it.
"""


def scenes(split: str, white: bool = False, **options: Any) -> dict[str, Any]:
    """Scenes of that size. white: on paper without colour and grain, of which no text tells."""
    paper = dict(paper=255, noise=0) if white else {}
    return common.scenes(split, size=SIDE, **paper, **options)


def finish(config: Any, smoke: bool, white: bool = False) -> Any:
    """Scenes to learn from and to be tested on, AdamW, and the shrinking to a smoke test."""
    config.data = dict(train=scenes("train", white), image=dict(size=SIDE), threads=2)
    config.schedule = dict(name="cosine", warmup_percent=5)
    config.checkpoint = dict(keep_last=1)
    return common.shrink(config) if smoke else config


def text(smoke: bool) -> dict[str, Any]:
    """A small encoder of the 32 tokens of a caption."""
    size = dict(width=128, layers=2, heads=4, mlp_width=512)
    if smoke:
        size = dict(width=16, layers=1, heads=2, mlp_width=32)
    return dict(name="transformer", vocab=512, max_length=32) | size


def evals(task: str, smoke: bool, white: bool = False) -> dict[str, Any]:
    """Scenes of the pairs of colour and shape that training shows, and of those it does not."""
    options = dict(drawn=0 if smoke else 32)
    of = lambda split: dict(task=task, data=scenes(split, white, length=256), options=options)
    return {split: of(split) for split in ("test", "test_comp")}


def generator(config: Any, arg: Any, **task: Any) -> Any:
    """Four layers over the text and the 64 tokens of `tokenizer`, which comes from the workdir
    arg.tokenizer and stays as it is; without one, its tokens are those of an untrained network.

    task: options of `TextToImage`.
    """
    quantizer = "fsq" if arg.fsq else "vq"
    decoder = dict(width=128, layers=4, heads=4, mlp_width=512, max_length=64)
    if arg.smoke:
        decoder |= dict(width=16, layers=1, heads=2, mlp_width=32)
    config.model = dict(
        name="image_generator",
        tokenizer=tokenizer(quantizer, arg.smoke, arg.white),
        text=text(arg.smoke) | dict(pooling="none"),
        decoder=decoder,
    )
    config.tasks = dict(text_to_image=dict(image_tokens=64, length=32, **task))
    config.evals = evals("text_to_image", arg.smoke, arg.white)
    config.optimizer = common.adamw(2e-3, betas=(0.9, 0.96), frozen=["tokenizer/.*"])
    start_tokenizer(config, arg.tokenizer, skip=["text/.*", "decoder/.*"])
    return finish(config, arg.smoke, arg.white)


def start_tokenizer(config: Any, workdir: str, skip: list[str]) -> None:
    """The tokenizer of a model as it was trained in `workdir`; without one, as it comes. skip: what
    else the model is made of.
    """
    if workdir:
        rename = [("(encoder|decoder|codebook|into|out_of)", r"tokenizer/\1")]
        config.init = dict(workdir=workdir, rename=rename, skip=skip)
