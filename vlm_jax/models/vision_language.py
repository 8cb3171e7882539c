"""The one wiring: encoder -> Features -> fusion -> Features -> decoder or head.

Which parts exist, and which objective asks for what, is the config's business. A captioner has a
vision encoder and a decoder; a dual encoder two encoders, or three, and a contrast head; a fusion
encoder all of them. Several objectives over one model share one pass of the vision encoder.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.encoders.precomputed import known_features
from vlm_jax.layers.constraints import BATCH, LENGTH, SPLIT, constrain
from vlm_jax.layers.low_rank import adapted
from vlm_jax.losses import Unembedding
from vlm_jax.losses.contrastive import all_products
from vlm_jax.models import rows
from vlm_jax.types import Batch, Cache, Features, concatenate, summary

Part = Any
"""A module or None; `models.check` says which parts a task needs, before a model is built."""


class VisionLanguageModel(nn.Module):
    """Encoders, fusion, decoder and heads, each optional; a language model is a decoder alone.

    shared_words: the decoder uses the text encoder's table of word vectors (T5).
    image_mean, image_std: per RGB channel in [0, 1], applied to uint8 images on the device; float
    inputs are taken to be features and pass unchanged.
    """

    vision: Part = None
    connector: Part = None
    text: Part = None
    audio: Part = None
    fusion: Part = None
    decoder: Part = None
    contrast_head: Part = None
    classify_head: Part = None
    reconstruct_head: Part = None
    regions_head: Part = None
    ground_head: Part = None
    shared_words: bool = False
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(
        self, batch: Batch, asks: Mapping[str, str], *, train: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Outputs for each task in `asks` = {task name: method of this class}, from batch["image"],
        batch["audio"] and batch[task], as far as they are there.

        batch[task] may have several rows per image: of n times as many rows as images, rows
        i * n to i * n + n - 1 belong to image i. Where batch[task] has segments, a row of
        batch["image"] has the images of all its examples, in order (see data.packing).
        """
        with adapted():
            image, visual = batch.get("image"), None
            if image is not None:
                if any("segments" in batch[task] for task in asks):
                    image = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), image)
                visual = self.encode_image(image, train=train)
            heard, outputs = {}, {}
            if "audio" in batch:
                heard = {"heard": self.encode_audio(batch["audio"], train=train)}
            for task, ask in asks.items():
                given = heard if ask == "contrast" else {}
                outputs[task] = getattr(self, ask)(visual, batch[task], **given, train=train)
            return outputs

    def encode_image(
        self, image: Array | Mapping, *, train: bool = False, **given: Any
    ) -> Features:
        """Features of uint8[B, H, W, 3] images in [0, 255], or uint8[B, S, P] patches of them, or
        of f32[B, ...] features computed beforehand, or a frozen encoder's own Features, {"pooled",
        "tokens"}, which need it no more. given: what else the vision encoder takes, such as a mask.

        {"pixels": ..., **given} is the same (see data.sizes); with "tiles" bool[B, N], which of
        them are real, the others have an axis N, too, such as pixels uint8[B, N, H, W, 3], and the
        tokens of all N are one row of each B.
        """
        if isinstance(image, Mapping):
            return self._encode_parts(image, train)
        if image.dtype == jnp.uint8:
            image = self._normalised(image)
        visual = self.vision(image, train=train, **given)
        return visual if self.connector is None else self.connector(visual, train=train)

    def _encode_parts(self, image: Mapping, train: bool) -> Features:
        if "pixels" not in image:
            visual = known_features(image)
            return visual if self.connector is None else self.connector(visual, train=train)
        given = {name: image[name] for name in image if name not in ("pixels", "grid", "tiles")}
        if "tiles" not in image:
            return self.encode_image(image["pixels"], train=train, **given)
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        given = jax.tree.map(flat, given) | {"train": train}
        visual = self.encode_image(flat(image["pixels"]), **given)
        return rows.joined(visual, image["tiles"])

    def _normalised(self, image: Array) -> Array:
        """Float32 pixels; patches, of which a vision encoder may want several frames, so often."""
        x = image.reshape(*image.shape[:-1], -1, 3) if image.ndim == 3 else image
        as_row = lambda values: jnp.asarray(values, jnp.float32).reshape((1,) * (x.ndim - 1) + (3,))
        mean, std = as_row(self.image_mean), as_row(self.image_std)
        x = ((x.astype(jnp.float32) / 255.0 - mean) / std).reshape(image.shape)
        frames = getattr(self.vision, "frames", 1) if image.ndim == 3 else 1
        alone = frames > 1 and image.shape[-1] == 3 * self.vision.patch**2
        return jnp.tile(x, frames) if alone else x

    def encode_audio(self, audio: Array, *, train: bool = False) -> Features:
        """Features of uint8[B, bins, frames] spectrograms (see data.audio), or f32 in [-1, 1]."""
        x = audio / 127.5 - 1.0 if audio.dtype == jnp.uint8 else audio
        return self.audio(x.astype(jnp.float32)[..., None], train=train)

    def encode_text(
        self, inputs: Mapping[str, Array], context: Features | None = None, *, train: bool = False
    ) -> Features:
        """Features of inputs["text"] i32[B, T] where inputs["text_mask"] is True.

        inputs["text_types"], if there, says which segment each token belongs to,
        inputs["text_visible"] which tokens attention sees, if not the real ones. context: what a
        text encoder with cross-attention looks at. Without a text encoder, the decoder has one.
        inputs["text_pooled"] f32[B, D] instead is what a frozen encoder made of the text.
        """
        if "text_pooled" in inputs:
            return known_features({"pooled": inputs["text_pooled"]})
        known = {"text_types": "types", "text_visible": "visible"}
        given: dict[str, Any] = {known[key]: inputs[key] for key in known if key in inputs}
        given |= {} if context is None else {"context": context}
        tower = self.decoder.encode if self.text is None else self.text
        return tower(inputs["text"], inputs["text_mask"], **given, train=train)

    def fuse(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Features:
        """Features of image and text together; the last T tokens are the text's.

        Without a fusion the text encoder itself looks at the image, if there is one.
        """
        shared = getattr(self.fusion, "shares_images", False) and "retrieved" not in inputs
        if visual is not None and not shared:
            visual = rows.for_rows(visual, len(inputs["text"]))
        visual = self.with_retrieved(visual, inputs, train=train)
        if self.fusion is None:
            return self.encode_text(inputs, visual, train=train)
        return self.fusion(visual, self.encode_text(inputs, train=train), train=train)

    def embed_image(self, image: Array | Mapping) -> Float[Array, "B *Q E"]:
        """Unit vectors of images in the shared space; one for each query where a fusion has them
        and reads images by themselves, of which the best counts (arXiv:2301.12597, section 3.1).
        """
        return self.contrast_head.embed("image", self._alone("image", self.encode_image(image)))

    def embed_text(self, inputs: Mapping[str, Array]) -> Float[Array, "B E"]:
        """Unit vectors of texts in the shared space."""
        return self.contrast_head.embed("text", self._alone("text", self.encode_text(inputs)))

    def embed_audio(self, audio: Array) -> Float[Array, "B E"]:
        """Unit vectors of sounds in the shared space."""
        return self.contrast_head.embed("audio", summary(self.encode_audio(audio)))

    def _alone(self, kind: str, seen: Features, train: bool = False) -> Float[Array, "B *Q D"]:
        """What an image, a text or a sound is compared by."""
        if kind == "audio" or not getattr(self.fusion, "reads_text", False):
            return summary(seen)
        if kind == "image":
            return self.fusion(seen, None, train=train).tokens
        return summary(self.fusion(None, seen, train=train))

    def contrast(
        self,
        visual: Features | None,
        inputs: Mapping[str, Array],
        *,
        heard: Features | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """image_embeds, text_embeds, audio_embeds f32[B, E] of what is given, or image_embeds
        f32[B, Q, E] as those of `embed_image`; scale, perhaps bias.
        """
        text = self.encode_text(inputs, train=train) if inputs else None
        given = {"image": visual, "text": text, "audio": heard}
        pooled = {kind: self._alone(kind, x, train) for kind, x in given.items() if x is not None}
        return self.contrast_head(pooled, train=train)

    def match(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """As `contrast`, and match_logits f32[B, 3, 2] of each row's own image and text, of its
        text with a wrong image, and of its image with a wrong text (class 1: they belong together);
        match_found bool[B, 3], which of them there are.

        The wrong ones are the batch's, see `rows.hard_negatives`; in training they are drawn.
        inputs["text_with_image"] is the text as it is read with an image, if that differs.
        """
        found = self.contrast(visual, inputs, train=train)
        logits = found["scale"] * all_products(found["image_embeds"], found["text_embeds"])
        true = rows.true_pairs(inputs["picture_id"], inputs["text_id"], inputs["said_ids"])
        key = self.make_rng("dropout") if train else None
        chosen = rows.hard_negatives(logits, true, key)
        texts = {"text": inputs.get("text_with_image", inputs["text"])}
        texts["text_mask"] = inputs["text_mask"]
        fused = self.fuse(*rows.with_negatives(visual, texts, chosen), train=train)
        match = self.classify_head(summary(fused), train=train)
        there = jnp.concatenate([jnp.ones_like(chosen.found[:, :1]), chosen.found], axis=1)
        return found | {"match_logits": match.reshape(-1, 3, 2), "match_found": there}

    def classify(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """Logits f32[B, C] of the fused summary, or of the image or text alone without a fusion;
        a vision encoder with classes has them without another head.
        """
        alone = visual is not None and self.fusion is None
        seen: Any = visual if alone else self.fuse(visual, inputs, train=train)
        head, seen = self.classify_head, summary(seen)
        return {"logits": seen if head is None else head(seen, train=train)}

    def pair(
        self, visual: Features, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """match_logits f32[B, N, C] of each image with its own text and then with those of the next
        N - 1 rows; match_found bool[B, N], its own and those that are wrong (see `rows.following`).
        """
        texts, found = rows.following(inputs)
        scores = rows.match_scores(self.understand(visual, texts, train=train), apart=True)
        return {"match_logits": scores.reshape(*found.shape, -1), "match_found": found}

    def reconstruct(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """word_logits f32[B, T, V] and match_logits f32[B, 2].

        Rows whose inputs["matched"] is False are shown the next row's text, so mismatched pairs
        cost no data reading.
        """
        matched = inputs["matched"][:, None]
        shown = {
            name: jnp.where(matched, inputs[name], jnp.roll(inputs[name], -1, axis=0))
            for name in ("text", "text_mask")
        }
        fused = self.fuse(visual, shown, train=train)
        return self._reconstructed(fused, inputs["text"].shape[1])

    def understand(
        self,
        visual: Features | None,
        inputs: Mapping[str, Array],
        *,
        everywhere: bool = False,
        train: bool = False,
    ) -> dict[str, Array]:
        """All that is known about image and text together: tokens, pooled if the model has that,
        and what its heads give: word_logits, match_logits, logits, region_..., region_scores.

        everywhere: word_logits of all tokens, not only of the text's.
        """
        fused = self.fuse(visual, inputs, train=train)
        outputs = {"tokens": fused.tokens}
        outputs |= {} if fused.pooled is None else {"pooled": fused.pooled}
        if self.reconstruct_head is not None:
            length = fused.tokens.shape[1] if everywhere else inputs["text"].shape[1]
            outputs |= self._reconstructed(fused, length)
        seen = fused.mask[:, : -inputs["text"].shape[1]]
        if self.ground_head is not None:
            outputs["region_scores"] = self.ground_head(fused.tokens, seen)
        if self.regions_head is not None:
            outputs |= self.regions_head(fused.tokens[:, : seen.shape[1]])
        if self.classify_head is not None:
            outputs["logits"] = self.classify_head(summary(fused), train=train)
        return outputs

    def _reconstructed(self, fused: Features, length: int) -> dict[str, Array]:
        """Scores of words at the last tokens, and of the match."""
        tokens = fused.tokens[:, -length:]
        words = (self.text.word_vectors(),) if self.reconstruct_head.tied else ()
        return self.reconstruct_head(tokens, summary(fused), *words)

    def encode(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """What the encoders make by themselves: image_tokens, image_pooled, text_tokens,
        text_pooled, as far as there are an image, a text and a pooled vector.
        """
        found = {} if visual is None else {"image": visual}
        found |= {"text": self.encode_text(inputs, train=train)} if "text" in inputs else {}
        outputs = {f"{name}_tokens": features.tokens for name, features in found.items()}
        pooled = {f"{name}_pooled": features.pooled for name, features in found.items()}
        return outputs | {name: x for name, x in pooled.items() if x is not None}

    def label_regions(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """Scores region_... f32[B, S, values] of every image token by itself."""
        assert visual is not None
        return self.regions_head(visual.tokens)

    def memory(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Features | None:
        """What the decoder attends to: the image, or inputs["text"], or both together, as far as
        the task gives them.
        """
        if "text" in inputs and (self.fusion is not None or self.text is not None):
            return self.fuse(visual, inputs, train=train)
        if visual is not None and "segments" in inputs:
            return rows.side_by_side(visual, inputs["segments"])
        visual = visual if visual is None else rows.for_rows(visual, len(inputs["tokens"]))
        return self.with_retrieved(visual, inputs, train=train)

    def with_retrieved(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> Features | None:
        """The image's Features and, beside them, those of the texts inputs["retrieved"]
        i32[B, K, T] where inputs["retrieved_mask"] is True, if there are any: [B, S + K * T, D].

        ValueError without a text encoder, or if it has another width than the image's Features.
        """
        if "retrieved" not in inputs:
            return visual
        if self.text is None:
            raise ValueError(
                "retrieved texts become Features in the text encoder: add config.model.text, or "
                'set the task\'s retrieved.to to "prompt"'
            )
        found = self.encode_text(rows.retrieved_texts(inputs), train=train)
        near = rows.retrieved_features(found, inputs["retrieved_mask"])
        return near if visual is None else concatenate(visual, near)

    def generate(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        """Logits f32[B, T, V] of the decoder reading inputs["tokens"], for teacher forcing; and
        attention f32[B, T, S] from decoders that tell by themselves where they look.
        """
        memory = self.memory(visual, inputs, train=train)
        looks = hasattr(self.decoder, "look")
        logits, _, *attention = (self.decoder.look if looks else self.decoder)(
            inputs["tokens"], memory, **self._reading(visual, inputs), train=train, **self._words()
        )
        outputs = {"logits": constrain(logits, BATCH, LENGTH, SPLIT)}
        return outputs | ({"attention": attention[0]} if looks else {})

    def unembed(
        self, visual: Features | None, inputs: Mapping[str, Array], *, train: bool = False
    ) -> dict[str, Unembedding]:
        """As `generate`, with words: what the logits are to be computed from, a part at a time."""
        memory = self.memory(visual, inputs, train=train)
        given = self._reading(visual, inputs) | self._words() | {"train": train, "later": True}
        words, _ = self.decoder(inputs["tokens"], memory, **given)
        return {"words": words}

    def _reading(self, visual: Features | None, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """How a decoder is to read inputs["tokens"]: which are real, prompt, of which example."""
        found = {"mask": inputs["tokens_mask"], "prefix": inputs["prefix"]}
        if "segments" not in inputs:
            return found
        segments = rows.all_segments(visual, inputs["segments"], self.decoder.memory)
        return found | {"segments": segments}

    def read(self, image: Array | Mapping | None, inputs: Mapping[str, Array]) -> Features | None:
        """The decoder's memory of an image, if there is one, and, where the task gives one, of
        inputs["text"].
        """
        return self.memory(None if image is None else self.encode_image(image), inputs)

    def deal(self, visual: Features, tokens: Int[Array, "B T"]) -> Features:
        """Any number of images as the decoder's memory, where images stand in the text's midst:
        each text gets, in order, one image token for each of its tokens that stands for one.
        """
        return rows.dealt(visual, tokens == self.decoder.image_token)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        memory: Features | None,
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        prefix: Int[Array, " B"] | None = None,
        **given: Any,
    ) -> tuple[Float[Array, "B _ V"], Cache | None]:
        """The decoder by itself; see `vlm_jax.decoders`. given: what else this decoder takes."""
        given = given | self._words()
        return self.decoder(tokens, memory, cache, mask=mask, prefix=prefix, **given)

    def _words(self) -> dict[str, Array]:
        """The word vectors that text encoder and decoder share, if they do."""
        return {"words": self.text.word_vectors()} if self.shared_words else {}

    def init_cache(
        self, memory: Features | None, length: int, extra: int = 0, **given: Any
    ) -> Cache:
        """The decoder's empty cache with room for `length` tokens; given: see the decoder's."""
        return self.decoder.init_cache(memory, length, extra, **given)
