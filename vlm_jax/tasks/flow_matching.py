"""Flow matching: learn the way from noise to a picture, given its caption or class, then draw."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax import decode, metrics
from vlm_jax.data.schema import Example, Source
from vlm_jax.data.text import Arrays, encoder_text
from vlm_jax.tasks.classification import label_of
from vlm_jax.tasks.drawn import draw_and_judge, first_of
from vlm_jax.tasks.text_to_image import caption_of, draw_rows, generator_of, own_and_other
from vlm_jax.tokenizers import Tokenizer

TIMES = ("logit_normal", "uniform")


@dataclass(frozen=True)
class FlowMatching:
    """The mean squared difference of velocities on the straight path from noise to data
    (arXiv:2210.02747, section 4; arXiv:2209.03003).

    labels: the classes to draw, values of example["label"]; () to draw captions. length: tokens of
    a caption. drop: share of the training pictures that are shown without text or class, for
    classifier-free guidance (arXiv:2207.12598). time: where on the path an example is, in [0, 1]
    from noise to data: "uniform", or "logit_normal", the logistic function of a normal variable of
    mean `centre` and deviation `spread` (arXiv:2403.03206, section 3.1).
    """

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    length: int = 32
    drop: float = 0.1
    time: str = "logit_normal"
    centre: float = 0.0
    spread: float = 1.0
    head: ClassVar[str] = "velocity"
    texts: ClassVar[str | None] = None

    def __post_init__(self):
        """ValueError for an unknown `time`."""
        if self.time not in TIMES:
            raise ValueError(f"time={self.time!r}: choose one of {TIMES}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What it needs of an example, by its keys."""
        return ("image", "label" if self.labels else "captions")

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random caption, or the class, perhaps none; a time and the seed of the noise. Without
        rng the first caption, and the others depend on the example alone. DataError if the example
        has no caption, or no label that is known.
        """
        if self.labels:
            arrays = self._of_class(example, rng)
        else:
            arrays = self.read(caption_of(example, rng, self.drop))
        rng = rng or generator_of(example)
        at = rng.random()
        if self.time == "logit_normal":
            at = 1.0 / (1.0 + np.exp(-(self.centre + self.spread * rng.standard_normal())))
        return arrays | {"time": np.float32(at), "noise": np.uint32(rng.integers(2**32))}

    def _of_class(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        label = label_of(example, self.labels)
        return self.read("" if rng is not None and rng.random() < self.drop else label)

    def read(self, text: str) -> Arrays:
        """What the model gets of a caption, or of the name of a class; "" for none. ValueError for
        an unknown class.
        """
        if not self.labels:
            return encoder_text(self.tokenizer, text, self.length)
        if text and text not in self.labels:
            raise ValueError(f"{text!r} is not among the {len(self.labels)} classes of this run")
        return {"label": np.int32(self.labels.index(text) if text else len(self.labels))}

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: mean squared difference of the velocities, per number of the map."""
        return jnp.mean(jnp.square(outputs["velocity"] - outputs["target"]), axis=(1, 2, 3))

    def evaluate(
        self,
        run: Any,
        source: Source,
        train: Source | None = None,
        drawn: int = 16,
        draw: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """velocity_error, the loss at a time and from a noise that are always the same; beside it,
        what it is for the caption or class of another picture of the set (`.../other_text`).

        drawn: how many captions or classes are drawn, too, with the options `draw` of
        `FlowMatching.draw`; see `drawn.draw_and_judge`.
        """
        count = 0
        for suffix, inputs in own_and_other(source, self.preprocess).items():
            rows = run.rows(self.head, source, inputs)
            errors = [np.mean(np.square(row["velocity"] - row["target"])) for _, row in rows]
            count = len(errors)
            measure = metrics.mean_of("velocity_error" + suffix, np.array(errors))
            yield from metrics.score([measure]).items()
        label = lambda example: example.get("label", "")
        told = label if self.labels else lambda example: caption_of(example, None, 0.0)
        way = partial(self.draw, run, **dict(draw or {}))
        yield from draw_and_judge(run, way, first_of(source, drawn), told)
        yield "n", float(count)

    def draw(
        self,
        run: Any,
        texts: Sequence[str],
        *,
        seed: int = 0,
        guidance: float = 3.0,
        steps: int = 32,
        method: str = "heun",
    ) -> np.ndarray:
        """A picture of each text or class, uint8[n, H, W, 3]; equal texts give different pictures.

        guidance: see `decode.guidance`. steps, method: see `decode.flow.integrate`.
        """
        way = partial(_along, run.experiment.model.shape, guidance, steps, method)
        key = (guidance, steps, method)
        return draw_rows(run, key, way, [self.read(text) for text in texts], self.read(""), seed)


def _along(
    shape: tuple[int, ...],
    guidance: float,
    steps: int,
    method: str,
    ask: Any,
    memory: Any,
    keys: Any,
) -> jax.Array:
    """Where the flow takes each row's noise."""
    read = decode.guided(
        lambda x, memory, cache, time: (ask("flow")(x, time, memory), None), guidance
    )
    velocity = lambda x, time: read(x, memory, time=time)[0]
    return decode.integrate(velocity, decode.noise(keys, shape), steps=steps, method=method)
