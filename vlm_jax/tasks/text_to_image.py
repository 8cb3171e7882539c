"""Text to image: learn to write the tokens of a picture from its caption, then draw from a text."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax import decode, metrics
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays, encoder_text
from vlm_jax.losses import masked_cross_entropy
from vlm_jax.tasks.drawn import draw_and_judge, first_of
from vlm_jax.tokenizers import Tokenizer
from vlm_jax.types import Batch, Variables


@dataclass(frozen=True)
class TextToImage:
    """image_tokens: how many a picture has, S. length: tokens of the text. drop: share of the
    training pictures that are shown without their text, for classifier-free guidance
    (arXiv:2207.12598). parallel: learn to guess hidden tokens from the others, a share of the
    cosine of a uniform angle being hidden (MaskGIT, arXiv:2202.04200, section 3.1), instead of the
    next from those before. hidden_least: then, the share that is hidden at least, 0.5 in that
    paper's recipe: the fewer are known, the more a text tells. label_smoothing: in [0, 1). drawing:
    options of `draw` that hold where it is not told otherwise.
    """

    tokenizer: Tokenizer
    image_tokens: int
    length: int = 32
    drop: float = 0.1
    parallel: bool = False
    hidden_least: float = 0.0
    label_smoothing: float = 0.0
    drawing: Mapping[str, Any] = field(default_factory=dict)
    texts: ClassVar[str | None] = None
    reads: ClassVar[tuple[str, ...]] = ("image", "captions")

    @property
    def head(self) -> str:
        """The model method that it asks."""
        return "hidden_tokens" if self.parallel else "next_tokens"

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random caption, perhaps none; without rng the first, and what is hidden depends on the
        example alone. DataError if the example has no caption.
        """
        arrays = self.read(caption_of(example, rng, self.drop))
        if not self.parallel:
            return arrays
        rng = rng or generator_of(example)
        share = max(math.cos(rng.random() * math.pi / 2), self.hidden_least)
        hidden = rng.permutation(self.image_tokens) < max(math.ceil(self.image_tokens * share), 1)
        return arrays | {"hidden": hidden}

    def read(self, text: str) -> Arrays:
        """What the text encoder gets of a text."""
        return encoder_text(self.tokenizer, text, self.length)

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: mean cross-entropy per image token that is to be written."""
        return masked_cross_entropy(
            *(outputs[name] for name in ("logits", "targets", "targets_mask")),
            label_smoothing=self.label_smoothing,
        )

    def evaluate(
        self,
        run: Any,
        source: Source,
        train: Source | None = None,
        drawn: int = 16,
        draw: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """nll, nats per image token given those that are known, and token_accuracy; beside each,
        what they are for the caption of another picture of the set (`.../other_text`).

        drawn: how many captions are drawn, too, with the options `draw` of `TextToImage.draw`; see
        `drawn.draw_and_judge`.
        """
        count = 0
        for suffix, inputs in own_and_other(source, self.preprocess).items():
            rows = [_scored(row) for _, row in run.rows(self.head, source, inputs)]
            losses, right, count = *map(np.array, zip(*rows, strict=True)), len(rows)
            measures = [metrics.mean_of("nll", losses), metrics.mean_of("token_accuracy", right)]
            for name, found in metrics.score(measures).items():
                yield name + suffix, found
        told = lambda example: caption_of(example, None, 0.0)
        way = partial(self.draw, run, **dict(draw or {}))
        yield from draw_and_judge(run, way, first_of(source, drawn), told)
        yield "n", float(count)

    def draw(
        self,
        run: Any,
        texts: Sequence[str],
        *,
        seed: int = 0,
        **options: Any,
    ) -> np.ndarray:
        """A picture of each text, uint8[n, H, W, 3]; equal texts give different pictures.

        options: guidance, see `decode.guidance`, 3 if nobody says; temperature, top_k and top_p of
        `decode.Search`, or with parallel, steps, temperature and choice_temperature of
        `decode.masked.unmask`.
        """
        options = dict(guidance=3.0) | dict(self.drawing) | options
        guidance = options.pop("guidance")
        start = run.experiment.model.codes
        way = partial(_at_once if self.parallel else _in_order, options=options)
        way = partial(way, length=self.image_tokens, start=start, guidance=guidance)
        key = (self.parallel, guidance, *sorted(options.items()))
        return draw_rows(run, key, way, [self.read(text) for text in texts], self.read(""), seed)


def caption_of(example: Example, rng: np.random.Generator | None, drop: float) -> str:
    """A random caption, "" with probability `drop`; without rng the first. DataError if the example
    has none.
    """
    captions = example["captions"]
    if not captions:
        raise DataError(f"example {example['id']} has no caption to draw from")
    if rng is None:
        return captions[0]
    caption = captions[rng.integers(len(captions))]
    return "" if rng.random() < drop else caption


def generator_of(example: Example) -> np.random.Generator:
    """Random numbers that depend on the example's id alone."""
    return np.random.default_rng([ord(letter) for letter in str(example["id"])])


def own_and_other(source: Source, preprocess: Callable) -> dict[str, Callable]:
    """How evaluation reads an example: with its own text, and under "/other_text" with that of the
    next of the source.
    """
    position = {source[i]["id"]: i for i in range(len(source))}

    def other(example: Example) -> Arrays:
        near: dict[str, Any] = {**source[(position[example["id"]] + 1) % len(source)]}
        told = {key: near[key] for key in ("captions", "label") if key in near}
        return preprocess({**example, **told}, None)

    return {"": lambda example: preprocess(example, None), "/other_text": other}


def draw_rows(
    run: Any, key: Any, way: Callable, told: Sequence[Arrays], untold: Arrays, seed: int
) -> np.ndarray:
    """A picture of each row, uint8[n, H, W, 3]; equal rows give different pictures.

    key: of the compiled program. way: from a function that gives the model's methods, what those
    read of all rows told, then of as many untold, and a random key per row, to what the model's
    `draw` takes. told, untold: what the model reads of a text, and of none.
    """
    model, names = run.experiment.model, tuple(untold)

    def draw(variables: Variables, batch: Batch) -> dict[str, Any]:
        ask: Any = lambda method: partial(model.apply, variables, method=method)
        both = {name: jnp.concatenate([batch[name], batch[f"blank_{name}"]]) for name in names}
        keys = decode.example_keys(batch["seed"], batch["example"])
        return {"picture": ask("draw")(way(ask, ask("read")(both), keys))}

    rows = [
        row
        | {f"blank_{name}": value for name, value in untold.items()}
        | {"seed": np.uint32(seed), "example": np.uint32(number)}
        for number, row in enumerate(told)
    ]
    return np.stack([row["picture"] for row in run.compute(("draw", key), draw, rows)])


def _scored(row: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Mean loss in nats and accuracy over the tokens of one picture that are to be written."""
    asked, logits = row["targets_mask"], row["logits"].astype(np.float64)
    logits = logits[asked] - logits[asked].max(axis=-1, keepdims=True)
    own = np.take_along_axis(logits, row["targets"][asked][:, None], axis=-1)[:, 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - own
    return float(losses.mean()), float(np.mean(logits.argmax(axis=-1) == row["targets"][asked]))


def _in_order(
    ask: Any, memory: Any, keys: Any, length: int, start: int, guidance: float, options: Mapping
) -> jax.Array:
    """Ids written one after the other. start: the id before the first, never written itself."""
    search = decode.Search(length, (start,), banned=(start,), **{"sample": True, **dict(options)})
    prompt = jnp.full((len(keys), 1), start, jnp.int32)
    decoder = decode.guided(ask("decode"), guidance)
    given = (prompt, jnp.ones(prompt.shape, bool), memory, search)
    return decode.generate(decoder, ask("init_cache"), *given, keys=keys).tokens


def _at_once(
    ask: Any, memory: Any, keys: Any, length: int, start: int, guidance: float, options: Mapping
) -> jax.Array:
    """Ids guessed all together, in rounds. start: the id of what is not known yet."""
    read = decode.guided(
        lambda tokens, memory, cache: (ask("guess")(tokens, memory), None), guidance
    )
    guess = lambda tokens: read(tokens, memory)[0]
    return decode.unmask(guess, keys, length, hidden=start, **dict(options))
