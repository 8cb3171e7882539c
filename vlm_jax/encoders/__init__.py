"""Encoders: an image, or a text, in; `Features` out.

Vision: (image f32[B, H, W, 3] already normalised, mask bool[B, S] | None, *, train) -> Features.
Audio: (spectrogram f32[B, bins, frames, 1] in [-1, 1], *, train) -> Features.
Text: (tokens i32[B, T], mask bool[B, T], *, train) -> Features.
"""

from vlm_jax.encoders.efficientnet import EfficientNet
from vlm_jax.encoders.frames import FrameEncoder
from vlm_jax.encoders.precomputed import Precomputed
from vlm_jax.encoders.regions import RegionEncoder
from vlm_jax.encoders.resnet import ResNet
from vlm_jax.encoders.text_bag import BagOfWords
from vlm_jax.encoders.text_recurrent import RecurrentEncoder
from vlm_jax.encoders.text_transformer import TransformerEncoder
from vlm_jax.encoders.vgg import VGG
from vlm_jax.encoders.vit import ViT

VISION_ENCODERS = {
    "vgg": VGG,
    "resnet": ResNet,
    "vit": ViT,
    "efficientnet": EfficientNet,
    "frames": FrameEncoder,
    "precomputed": Precomputed,
    "regions": RegionEncoder,
}

AUDIO_ENCODERS = {"vit": ViT}

TEXT_ENCODERS = {
    "bag_of_words": BagOfWords,
    "recurrent": RecurrentEncoder,
    "transformer": TransformerEncoder,
}
