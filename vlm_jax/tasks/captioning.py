"""Captioning: describe an image in words, by teacher forcing; scored by BLEU, ROUGE-L, CIDEr-D and
attribute F1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vlm_jax import metrics
from vlm_jax.data.picture_words import rounded, with_picture
from vlm_jax.data.scenes import parse_caption
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.data.text import TEMPLATE, Arrays, decoder_prompt, decoder_text, encoder_text, fill
from vlm_jax.losses import written_cross_entropy
from vlm_jax.losses.coverage import doubly_stochastic
from vlm_jax.tasks.retrieved import neighbours
from vlm_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class Captioning:
    """length: tokens per caption, prompt and eos included. prompt: fixed words before the caption,
    such as "a picture of".

    label_smoothing: in [0, 1). blocked: words whose scores the loss computes at a time, for large
    vocabularies (None: all). template: how prompt and special tokens are arranged, see
    `data.text.fill`. parallel: how often, in [0, 1], a caption's words are to be guessed all at
    once in training, from the image alone (CapPa, arXiv:2306.07915, section 3.1): the decoder then
    reads nothing but `mask_token`. picture: what stands for the picture where the template says
    "{picture}", see `data.picture_words.with_picture`; it is in addition to `length`.
    text_template: how the prompt is arranged for a text encoder that reads it (T5), in at most
    text_length tokens besides the picture's; the decoder's template then has none. look_everywhere:
    weight of `losses.coverage.doubly_stochastic`, for a decoder that tells where it looks.
    retrieved: how the texts of similar pictures are used, the fields of
    `tasks.retrieved.Neighbours`; in the prompt they come before its fixed words, and in addition to
    `length`.
    """

    tokenizer: Tokenizer
    length: int = 32
    prompt: str = ""
    label_smoothing: float = 0.0
    template: str = TEMPLATE
    blocked: int | None = None
    parallel: float = 0.0
    mask_token: int | None = None
    picture: Mapping[str, Any] | None = None
    text_template: str | None = None
    text_length: int = 32
    look_everywhere: float = 0.0
    retrieved: Mapping[str, Any] | None = None
    head: ClassVar[str] = "generate"
    texts: ClassVar[str | None] = "captions"
    reads: ClassVar[tuple[str, ...]] = ("image", "captions")

    def __post_init__(self):
        """ValueError for words to be guessed without a token that stands for them."""
        if self.parallel and self.mask_token is None:
            raise ValueError(
                "captioning with parallel needs mask_token: the decoder's vocab, which is the id "
                "of the token that its parallel=True adds"
            )

    def preprocess(self, example: Example, rng: np.random.Generator | None) -> Arrays:
        """A random caption (the first without rng) after the prompt; DataError if the example has
        none.
        """
        captions = example["captions"]
        if not captions:
            raise DataError(f"example {example['id']} has no caption, which captioning learns from")
        caption = captions[0 if rng is None else rng.integers(len(captions))]
        prompt, room, arrays, template = self._prompt(example, rng)
        length = self.length + (room or 0)
        arrays |= decoder_text(self.tokenizer, prompt, caption, length, room, template)
        if rng is not None and self.parallel and rng.random() < self.parallel:
            tokens = arrays["tokens"].copy()
            tokens[arrays["targets_mask"]] = self.mask_token
            arrays = {**arrays, "tokens": tokens}
        return arrays

    def query(self, example: Example) -> Arrays:
        """What the decoder is given before it writes."""
        prompt, room, arrays, template = self._prompt(example, None)
        return arrays | decoder_prompt(self.tokenizer, prompt, room, template)

    def _prompt(
        self, example: Example, rng: np.random.Generator | None
    ) -> tuple[str, int | None, Arrays, str]:
        """The words before the caption, their room in tokens if it is fixed, what the text encoder
        reads, and the decoder's template.
        """
        if self.text_template is not None:
            return "", None, self._text(self.text_template, example), self.template
        template, shown = with_picture(self.template, self.picture, self.tokenizer, example)
        near = neighbours(self.retrieved)
        fixed = len(fill(self.tokenizer, template, self.prompt)) if shown or near else 0
        room = rounded(fixed) if shown else None
        if near is None:
            return self.prompt, room, {}, template
        texts = near.used(example, rng)
        arrays = near.arrays(self.tokenizer, texts)
        if near.to == "memory":
            return self.prompt, room, arrays, template
        prompt = " ".join(filter(None, [near.prompt(self.tokenizer, texts), self.prompt]))
        return prompt, (room or fixed) + near.room(self.tokenizer), arrays, template

    def _text(self, template: str, example: Example) -> Arrays:
        """The prompt as the text encoder reads it."""
        template, shown = with_picture(template, self.picture, self.tokenizer, example)
        return encoder_text(self.tokenizer, self.prompt, self.text_length + shown, template)

    def loss(self, outputs: Mapping, batch: Mapping) -> Any:
        """f32[B]: mean cross-entropy per caption token, eos included, and what look_everywhere
        adds. ValueError for that of a decoder that does not tell where it looks.
        """
        loss = written_cross_entropy(
            outputs, batch, block=self.blocked, label_smoothing=self.label_smoothing
        )
        if not self.look_everywhere:
            return loss
        if "attention" not in outputs:
            raise ValueError(
                "look_everywhere needs a decoder that tells where it looks: use attending_lstm, or "
                "leave it out"
            )
        missed = doubly_stochastic(outputs["attention"], batch["targets_mask"])
        return loss + self.look_everywhere * missed

    def evaluate(
        self, run: Any, source: Source, train: Source | None = None, **options: Any
    ) -> Iterator[tuple[str, float | metrics.Score]]:
        """Caption every image of `source` once. options: those of `vlm_jax.decode.Search`.

        Besides each metric stands what captions of *another* image of the set score
        (`.../other_image`): the part of the score that fluency and the set's habits explain.
        """
        examples = [source[i] for i in range(len(source))]
        written = run.write(source, self.query, self.length, **options)
        texts = {examples[i]["id"]: text for i, text in written.items()}
        run.save_predictions([{"id": key, "caption": text} for key, text in texts.items()])
        described = {e["id"]: e for e in examples if e["id"] in texts and e["captions"]}
        yield from _scores(texts, described, "")
        ids = list(described)
        other = {key: described[ids[i - 1]]["captions"][0] for i, key in enumerate(ids)}
        yield from _scores(other, described, "/other_image")
        yield "n", float(len(described))


def _scores(
    texts: Mapping[str, str], described: Mapping[str, Example], suffix: str
) -> Iterator[tuple[str, metrics.Score]]:
    """Caption metrics of texts against the examples' captions; attribute F1 where the scene graph
    is known.
    """
    references = {key: example["captions"] for key, example in described.items()}
    texts = {key: texts[key] for key in references}
    for name, found in metrics.score(metrics.caption_measures(texts, references)).items():
        yield name + suffix, found
    scenes = {key: example["scene"] for key, example in described.items() if "scene" in example}
    if scenes:
        true = {
            key: {(o["colour"], o["shape"]) for o in scene["objects"]}
            for key, scene in scenes.items()
        }
        said = {key: parse_caption(texts[key]) for key in scenes}
        found = metrics.score([metrics.attribute_measure(said, true)])
        yield "attribute_f1" + suffix, found["attribute_f1"]
