"""Image tokens: draw an image again from a few ids, and learn both the ids and the drawing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from vlm_jax import metrics
from vlm_jax.data.schema import Example, Source
from vlm_jax.data.text import Arrays
from vlm_jax.tasks.drawn import JUDGED, judged, keep
from vlm_jax.tokenizers import Tokenizer
from vlm_jax.tokenizers.vq_image import codebook_use


@dataclass(frozen=True)
class ImageTokens:
    """The reconstruction part of VQGAN's objective (arXiv:2012.09841, section 3.1), without the
    perceptual and the adversarial part.

    absolute, squared: weights of the mean absolute and the mean squared difference of pixels in
    [-1, 1]. codebook: weight of the loss of the quantizer.
    """

    tokenizer: Tokenizer
    absolute: float = 1.0
    squared: float = 1.0
    codebook: float = 1.0
    head: ClassVar[str] = "reconstruct_image"
    texts: ClassVar[str | None] = None
    reads: ClassVar[tuple[str, ...]] = ("image",)

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """Nothing: the image is all there is to know."""
        return {}

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: the weighted differences of each image."""
        difference = outputs["drawn"] - outputs["image"]
        mean = lambda x: jnp.mean(x, axis=(1, 2, 3))
        drawn = self.absolute * mean(jnp.abs(difference)) + self.squared * mean(difference**2)
        return drawn + self.codebook * outputs["codebook_loss"]

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, drawn: int = 12
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """psnr in dB of 8-bit images, beside that of each image's mean colour (`/mean_colour`);
        codebook_used, the share of codes that occur, and codebook_perplexity. Of built-in scenes
        drawn_count, drawn_colours, drawn_shapes and drawn_right, the shares of pictures that still
        show what they did: no generator over these tokens can be expected to draw more of them.

        drawn: how many pictures are kept as they come back, for the report.
        """
        found, blank, ids, kept, scenes = [], [], [], [], []
        for position, row in run.rows(self.head, source, lambda example: {}):
            true, back = _bytes(row["image"]), _bytes(row["drawn"])
            example, pixels = source[position], back.astype(np.uint8)
            found.append(psnr(back, true))
            if len(kept) < drawn:
                kept.append((example, pixels))
            if "scene" in example:
                scenes.append(judged(pixels[None], [example]))
            blank.append(psnr(np.broadcast_to(true.mean(axis=(0, 1)), true.shape), true))
            ids.append(row["ids"])
        rows = [
            {"id": example["id"], "text": f"{value:.1f} dB"}
            for (example, _), value in zip(kept, found, strict=False)
        ]
        if kept:
            keep(run, rows, np.stack([pixels for _, pixels in kept]))
        yield from metrics.score([metrics.mean_of("psnr", np.array(found))]).items()
        if scenes:
            each = {name: np.concatenate([one[name] for one in scenes]) for name in JUDGED}
            shown = [metrics.mean_of(f"drawn_{name}", values) for name, values in each.items()]
            yield from metrics.score(shown).items()
        yield "psnr/mean_colour", float(np.mean(blank))
        used, perplexity = codebook_use(np.stack(ids), run.experiment.model.codes)
        yield "codebook_used", used
        yield "codebook_perplexity", perplexity
        yield "n", float(len(found))


def psnr(drawn: np.ndarray, true: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two images with values in [0, 255]; 100 if they are
    equal.
    """
    error = float(np.mean(np.square(drawn.astype(np.float64) - true.astype(np.float64))))
    return 100.0 if error == 0 else min(100.0, 10.0 * float(np.log10(255.0**2 / error)))


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1] as whole numbers in [0, 255], f64."""
    return np.clip(np.round((pixels.astype(np.float64) + 1.0) * 127.5), 0, 255)
