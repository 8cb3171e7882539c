"""What a trained run, or a published checkpoint, can be asked from Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vlm_jax import ranking, sharding
from vlm_jax.data import in_memory
from vlm_jax.data.schema import DataError, Source
from vlm_jax.evaluate import Run
from vlm_jax.tasks.completion import reader

if TYPE_CHECKING:
    from vlm_jax.chat import Chat

Image = Any
"""A path, encoded bytes, a PIL image, or uint8[H, W, 3]; a video as a path with the suffix of one,
a `data.video_images.VideoFile` or uint8[F, H, W, 3], of which models of pictures see the middle.
"""

Audio = Any
"""A path or the bytes of any file that has a sound, or (samples, rate): f32[n] in [-1, 1] or
int16[n], and how many of them a second has; see `data.audio`.
"""


ABLE = {
    "caption": "prompt",
    "answer": "answer",
    "chat": "turns",
    "classify": "classify",
    "complete": "complete",
    "fill": "fill",
    "draw": "draw",
}
"""Methods of `Model`, and what a task has that makes them possible."""


class Published(NamedTuple):
    """The origin of a published checkpoint: its family, its config.json and its folder."""

    family: Any
    config: Mapping[str, Any]
    folder: Path


class Model:
    """What a trained run can do. Methods that the run has no task for raise ValueError, which lists
    its `abilities`.

    run: compiled functions and variables, for anything this class does not offer. published: where
    a model that began as a published checkpoint has its config.json and tokenizer files from.
    """

    def __init__(self, run: Run, published: Published | None = None):
        self.run, self.published = run, published
        self._memory: Any = None

    @property
    def abilities(self) -> tuple[str, ...]:
        """The methods of this class that this model has what it takes for."""
        setup = self.run.experiment
        retrieval = self._found("text")
        found = [name for name, attribute in ABLE.items() if self._found(attribute) is not None]
        found += [] if retrieval is None else ["rank", "rank_texts"]
        shared = retrieval is not None and retrieval.contrast
        found += ["embed_image", "embed_text"] if shared else []
        found += [] if setup.read.listen is None else ["embed_audio", "rank_for_audio"]
        parts = (getattr(setup.model, part, None) for part in ("vision", "text"))
        return (*found, *(["features"] if any(part is not None for part in parts) else []))

    def caption(
        self, image: Image | list[Image], *, judge: "Model | None" = None, **options: Any
    ) -> Any:
        """A caption for each picture; with n_best, a list of captions for each, best first.

        judge: a model with a shared space of images and texts, such as this one or a CLIP, that
        puts the captions of each picture in its own order (DALL-E, arXiv:2102.12092, section 2.6).
        options: fields of `decode.Search`, such as beams=4, or sample=True with n_best=8, and those
        of `evaluate.Run.write`: seed, and choices, the only texts to choose from.
        """
        images, single = _listed(image)
        task = self.task("prompt", "write captions")
        write = lambda run, source: run.write(source, task.query, task.length, **options)
        written = self._all(in_memory.pictures(images), write)
        if judge is not None:
            if options.get("n_best") is None:
                raise ValueError("a judge needs several captions to choose from: set n_best")
            pairs = zip(images, written, strict=True)
            ranked = [judge.rank_texts(picture, texts) for picture, texts in pairs]
            written = [[row["text"] for row in rows] for rows in ranked]
        return written[0] if single else written

    def answer(
        self, image: Image | list[Image], question: str | list[str], **options: Any
    ) -> str | list[str]:
        """The answer to each picture's question. One question with several pictures is asked of
        each of them.
        """
        images, single = _listed(image)
        questions = [question] * len(images) if isinstance(question, str) else list(question)
        if single and len(questions) > 1:
            images = images * len(questions)
        if len(images) != len(questions):
            raise ValueError(
                f"{len(images)} images and {len(questions)} questions: give as many of one as "
                "of the other"
            )
        task = self.task("answer", "answer questions")
        asked = in_memory.pictures(images, questions)
        answers = self._all(asked, lambda run, source: task.answer(run, source, **options))
        return answers[0] if single and isinstance(question, str) else answers

    def chat(self, context: int | None = None) -> "Chat":
        """A new conversation; see `vlm_jax.chat.Chat`. context: most tokens of it (None: as many as
        the decoder can read).
        """
        from vlm_jax.chat import Chat  # late: few ask for it

        return Chat(self.run, self.task("turns", "hold a conversation"), context)

    def classify(
        self,
        image: Image | list[Image] | None = None,
        text: str | list[str] | None = None,
        *,
        top: int = 5,
    ) -> Any:
        """The `top` likeliest classes of each picture, of each text, or of both together, best
        first, as {"label", "score", "index"}; score is a probability. Where a text is about several
        pictures (ViLT of NLVR2), `image` is a list of them, or a list of such lists.
        """
        task = self.task("classify", "classify")
        source, single = self._shown(image, text)
        found = self._all(source, lambda run, source: task.classify(run, source, top))
        return found[0] if single else found

    def complete(self, text: str | list[str], length: int | None = None, **options: Any) -> Any:
        """What a language model writes after each text (T5: in answer to it), without that text;
        with n_best, a list of texts for each, best first.

        length: most tokens of it (None: the task's `written`). options: as for `caption`.
        """
        task = self.task("complete", "complete texts")
        texts = [text] if isinstance(text, str) else list(text)
        self.fit(len(texts))
        written = task.complete(self.run, texts, length, **options)
        return written[0] if isinstance(text, str) else written

    def fill(
        self, text: str | list[str], image: Image | list[Image] | None = None, *, top: int = 5
    ) -> Any:
        """For every blank of each text, where its mask token stands ("[MASK]"), the `top` likeliest
        tokens, best first, as {"token", "score", "index"}; score is a probability. image: what the
        text is about, for models that see.
        """
        task = self.task("fill", "fill blanks")
        source, single = self._shown(image, text)
        found = self._all(source, lambda run, source: task.fill(run, source, top))
        return found[0] if single else found

    def _shown(self, image: Any, text: Any) -> tuple[in_memory.InMemory, bool]:
        """Pictures, texts, or pairs of them as a source, and whether a single one was meant; one of
        the one goes with each of several of the other. ValueError for nothing, for pictures that
        are not seen or missing, or other numbers.
        """
        sees = self.run.experiment.read.fit != "none"
        if image is None and sees:
            raise ValueError("this model sees pictures: give an image, too")
        if image is not None and not sees:
            raise ValueError("this model sees no pictures: give a text alone")
        if image is None:
            texts = [text] if isinstance(text, str) else list(text or ())
            return in_memory.texts_alone(texts), isinstance(text, str)
        images, single = _listed(image)
        if self.run.experiment.read.pictures and not any(
            isinstance(x, list | tuple) for x in images
        ):
            images, single = [images], True
        if text is None:
            return in_memory.pictures(images), single
        if getattr(self.run.experiment.model, "text", None) is None:
            raise ValueError("this model reads no texts: give an image alone")
        texts = [text] * len(images) if isinstance(text, str) else list(text)
        images = images * len(texts) if single else images
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images and {len(texts)} texts: give as many of each")
        return in_memory.pictures(images, captions=texts), single and isinstance(text, str)

    def embed_image(self, image: Image | list[Image]) -> np.ndarray:
        """Unit vectors f32[n, E] of pictures ([E] for a single one); f32[n, Q, E] from a model that
        has several of each picture, of which the best counts (BLIP-2).
        """
        self._shared("embed images")
        images, single = _listed(image)
        find = lambda run, source: dict(run.image_embeddings(source))
        vectors = np.stack(self._all(in_memory.pictures(images), find))
        return vectors[0] if single else vectors

    def features(
        self, image: Image | list[Image] | None = None, text: str | list[str] | None = None
    ) -> np.ndarray:
        """Vectors f32[n, D] ([D] for a single one) of pictures, of texts, or of pictures each with
        a text that the model reads together with it.

        Those of `embed_image` and `embed_text` where there is a shared space; otherwise what the
        encoder pools, or the mean of its tokens, without the classifier that it may end in.
        """
        if text is None and image is not None:
            from vlm_jax.memory.encoders import Trained  # late: few ask for it

            images, single = _listed(image)
            find = lambda run, source: dict(Trained(self, "").images(source))
            vectors = np.stack(self._all(in_memory.pictures(images), find))
            return vectors[0] if single else vectors
        if text is None:
            raise ValueError("features of what? give an image, a text, or both")
        if image is None:
            texts = [text] if isinstance(text, str) else list(text)
            vectors = self._text_features(texts)
            return vectors[0] if isinstance(text, str) else vectors
        if self.run.experiment.model.fusion is None:
            raise ValueError("this model reads pictures and texts apart: ask for one of the two")
        source, single = self._shown(image, text)
        read = self._reader([example["captions"][0] for example in source.examples])
        inputs = lambda example: read(example["captions"][0])
        vectors = np.stack(self._all(source, lambda run, s: dict(run.features(s, inputs))))
        return vectors[0] if single else vectors

    def _text_features(self, texts: list[str]) -> np.ndarray:
        """Features of texts by themselves."""
        task = self._found("text")
        self.fit(len(texts))
        if task is not None and task.contrast:
            return self.run.text_embeddings(task, texts)
        if self.run.experiment.model.text is None:
            raise ValueError(f"this model has no text encoder; {self._can()}")
        read = self._reader(texts)
        rows = [read(text) for text in texts]
        return np.stack(self.run.text_features(rows))

    def _reader(self, texts: Sequence[str]) -> Any:
        """Reads any of these texts as the text encoder does, all at one length."""
        most = getattr(self.run.experiment.model.text, "max_length", None)
        return reader(self.run.experiment.tokenizer, texts, most)

    def embed_text(self, text: str | list[str]) -> np.ndarray:
        """Unit vectors f32[n, E] of texts ([E] for a single one)."""
        task = self._shared("embed texts")
        texts = [text] if isinstance(text, str) else list(text)
        self.fit(len(texts))
        vectors = self.run.text_embeddings(task, texts)
        return vectors[0] if isinstance(text, str) else vectors

    def embed_audio(self, audio: Audio | list[Audio]) -> np.ndarray:
        """Unit vectors f32[n, E] of sounds ([E] for a single one), by as many seconds from their
        beginning as the model listens to.
        """
        if self.run.experiment.read.listen is None:
            raise ValueError(
                f"this run cannot embed sounds: it has no config.data.audio; {self._can()}"
            )
        sounds = audio if isinstance(audio, list) else [audio]
        find = lambda run, source: dict(run.audio_embeddings(source))
        vectors = np.stack(self._all(in_memory.sounds(sounds), find))
        return vectors if isinstance(audio, list) else vectors[0]

    def rank_for_audio(
        self,
        audio: Audio,
        *,
        texts: Sequence[str] | None = None,
        images: Sequence[Image] | None = None,
    ) -> list[dict[str, Any]]:
        """The texts, or else the pictures, from best to worst for a sound, as {"text" or "image",
        "index", "score"}. ValueError for both or none of them.
        """
        if (texts is None) == (images is None):
            raise ValueError("rank texts for a sound, or images: give one of the two")
        heard = self.embed_audio(audio)
        if texts is not None:
            return ranking.rows_of(self.embed_text(list(texts)) @ heard, "text", list(texts))
        shown = list(images or ())
        return ranking.rows_of(self.embed_image(shown) @ heard, "image", ranking.names(shown))

    def rank(self, text: str, images: Sequence[Image]) -> list[dict[str, Any]]:
        """The pictures from best to worst for a text, as {"image", "index", "score"}; score is the
        cosine in [-1, 1], or, of a model without a shared space (ViLT), the match's logit.

        A model with both orders the best of them anew, by "match", its logit plus the cosine; how
        many, is the task's match.rerank.
        """
        return ranking.ranked(self, "image", list(images), [text])

    def rank_texts(self, image: Image, texts: Sequence[str]) -> list[dict[str, Any]]:
        """The texts from best to worst for a picture, as {"text", "index", "score"}, and "match" as
        for `rank`.
        """
        return ranking.ranked(self, "text", [image], list(texts))

    def draw(
        self, text: str, *, samples: int = 1, judge: "Model | None" = None, **options: Any
    ) -> np.ndarray:
        """Pictures of a text, uint8[samples, H, W, 3].

        judge: a model with a shared space of images and texts, by which the best picture comes
        first (DALL-E, arXiv:2102.12092, section 2.6). options: those of the task's `draw`, such as
        seed and guidance.
        """
        if samples < 1:
            raise ValueError(f"samples={samples}: draw at least one picture")
        task = self.task("draw", "draw pictures")
        self.fit(samples)
        pictures = task.draw(self.run, [text] * samples, **options)
        if judge is None:
            return pictures
        return pictures[[row["index"] for row in judge.rank(text, list(pictures))]]

    def _found(self, attribute: str) -> Any:
        """The first task with an attribute, or None."""
        tasks = self.run.experiment.tasks.values()
        return next((task for task in tasks if hasattr(task, attribute)), None)

    def task(self, attribute: str, ability: str) -> Any:
        """The first task with an attribute; ValueError if this run cannot do that."""
        task = self._found(attribute)
        if task is None:
            tasks = f"it was trained for {', '.join(self.run.experiment.tasks) or 'no task here'}"
            raise ValueError(f"this run cannot {ability}: {tasks}; {self._can()}")
        return task

    def _can(self) -> str:
        return f"what it can: {', '.join(self.abilities) or 'nothing that is offered here'}"

    def _shared(self, ability: str) -> Any:
        """The task with a shared space of images and texts; ValueError without one."""
        task = self.task("text", ability)
        if not task.contrast:
            raise ValueError(
                f"this run cannot {ability}: it reads pictures and texts together and has no "
                f"shared space; {self._can()}"
            )
        return task

    def _all(self, source: Source, function: Any) -> list[Any]:
        """Results of `function(run, source)` for every example; DataError names those that cannot
        be read.
        """
        self.fit(len(source))
        self.run.skipped.reasons.clear()
        found = dict(function(self.run, self._with_neighbours(source)))
        if len(found) < len(source):
            raise DataError("; ".join(self.run.skipped.reasons))
        return [found[i] for i in range(len(source))]

    def _with_neighbours(self, pictures: Source) -> Source:
        """The pictures with what the run's memory says about ones like them, if it has a memory."""
        data = dict(self.run.experiment.config.get("data") or {}).get("train") or {}
        if data.get("name") != "retrieved":
            return pictures
        from vlm_jax.memory import neighbours  # late: most runs have no memory

        if self._memory is None:
            self._memory = neighbours.with_encoder(data["memory"])
        memory, encoder = self._memory
        k = data.get("k", 4)
        return neighbours.Retrieved(pictures, memory, encoder, k, own=True, keep=False)

    def fit(self, count: int) -> None:
        """Choose a batch size of 1, 8 or 64, so that a handful of programs serves every number of
        pictures.
        """
        shards = sharding.batch_shards(self.run.mesh)
        size = next((size for size in (1, 8) if count <= size), 64)
        self.run.batch_size = -(-size // shards) * shards


def _listed(image: Image | list[Image]) -> tuple[list[Image], bool]:
    """A list of pictures, and whether a single one was meant."""
    if isinstance(image, list | tuple):
        return list(image), False
    return [image], True
