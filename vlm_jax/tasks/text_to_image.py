"""Text to image: learn to write the tokens of a picture from its caption, then draw from a text."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax import decode, metrics
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import Arrays, encoder_text
from vlm_jax.losses import masked_cross_entropy
from vlm_jax.tokenizers import Tokenizer
from vlm_jax.types import Batch, Variables


@dataclass(frozen=True)
class TextToImage:
    """image_tokens: how many a picture has, S. length: tokens of the text. drop: share of the
    training pictures that are shown without their text, for classifier-free guidance
    (arXiv:2207.12598). parallel: learn to guess hidden tokens from the others, a share of the
    cosine of a uniform angle being hidden (MaskGIT, arXiv:2202.04200, section 3.1), instead of the
    next from those before. label_smoothing: in [0, 1).
    """

    tokenizer: Tokenizer
    image_tokens: int
    length: int = 32
    drop: float = 0.1
    parallel: bool = False
    label_smoothing: float = 0.0
    texts: ClassVar[str | None] = None

    @property
    def head(self) -> str:
        """The model method that it asks."""
        return "hidden_tokens" if self.parallel else "next_tokens"

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random caption, perhaps none; without rng the first, and what is hidden depends on the
        example alone. DataError if the example has no caption.
        """
        captions = example["captions"]
        if not captions:
            raise DataError(f"example {example['id']} has no caption to draw from")
        caption = captions[0 if rng is None else rng.integers(len(captions))]
        if rng is not None and rng.random() < self.drop:
            caption = ""
        arrays = self.read(caption)
        if not self.parallel:
            return arrays
        rng = rng or np.random.default_rng([ord(letter) for letter in str(example["id"])])
        count = math.ceil(self.image_tokens * math.cos(rng.random() * math.pi / 2))
        hidden = rng.permutation(self.image_tokens) < max(count, 1)
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
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """nll, nats per image token given those that are known, and token_accuracy; beside each,
        what they are for the caption of another picture of the set (`.../other_text`).
        """
        position = {source[i]["id"]: i for i in range(len(source))}

        def other(example: Example) -> Arrays:
            near = source[(position[example["id"]] + 1) % len(source)]
            text = self.read((near["captions"] or [""])[0])
            return self.preprocess(example, None) | text

        own = lambda example: self.preprocess(example, None)
        count = 0
        for inputs, suffix in ((own, ""), (other, "/other_text")):
            rows = [_scored(row) for _, row in run.rows(self.head, source, inputs, **options)]
            losses, right, count = *map(np.array, zip(*rows, strict=True)), len(rows)
            measures = [metrics.mean_of("nll", losses), metrics.mean_of("token_accuracy", right)]
            for name, found in metrics.score(measures).items():
                yield name + suffix, found
        yield "n", float(count)

    def draw(
        self,
        run: Any,
        texts: Sequence[str],
        *,
        seed: int = 0,
        guidance: float = 3.0,
        **options: Any,
    ) -> np.ndarray:
        """A picture of each text, uint8[n, H, W, 3]; equal texts give different pictures.

        guidance: see `decode.guidance`. options: temperature, top_k and top_p of `decode.Search`,
        or with parallel, steps, temperature and choice_temperature of `decode.masked.unmask`.
        """
        way = partial(_at_once if self.parallel else _in_order, options=options)
        function = _drawer(run.experiment.model, way, self.image_tokens, guidance)
        blank = self.read("")
        rows = [
            self.read(text)
            | {f"blank_{name}": value for name, value in blank.items()}
            | {"seed": np.uint32(seed), "example": np.uint32(number)}
            for number, text in enumerate(texts)
        ]
        key = ("draw", self.parallel, guidance, tuple(sorted(options.items())))
        return np.stack([row["picture"] for row in run.compute(key, function, rows)])


def _scored(row: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Mean loss in nats and accuracy over the tokens of one picture that are to be written."""
    asked, logits = row["targets_mask"], row["logits"].astype(np.float64)
    logits = logits[asked] - logits[asked].max(axis=-1, keepdims=True)
    own = np.take_along_axis(logits, row["targets"][asked][:, None], axis=-1)[:, 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - own
    return float(losses.mean()), float(np.mean(logits.argmax(axis=-1) == row["targets"][asked]))


def _drawer(model: Any, way: Callable, length: int, guidance: float) -> Callable:
    """A function of (variables, batch) that reads the texts, writes ids and draws them."""

    def draw(variables: Variables, batch: Batch) -> dict[str, Any]:
        ask: Any = lambda method: partial(model.apply, variables, method=method)
        both = {
            name: jnp.concatenate([batch[name], batch[f"blank_{name}"]])
            for name in ("text", "text_mask")
        }
        memory = ask("read")(both)
        keys = decode.example_keys(batch["seed"], batch["example"])
        ids = way(ask, memory, keys, length, model.codes, guidance)
        return {"picture": ask("draw")(ids)}

    return draw


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
    ask: Any, memory: Any, keys: Any, length: int, hidden: int, guidance: float, options: Mapping
) -> jax.Array:
    """Ids guessed all together, in rounds. hidden: the id of what is not known yet."""
    read = decode.guided(
        lambda tokens, memory, cache: (ask("guess")(tokens, memory), None), guidance
    )
    guess = lambda tokens: read(tokens, memory)[0]
    return decode.unmask(guess, keys, length, hidden=hidden, **dict(options))
