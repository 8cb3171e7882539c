"""A trained run as a Python object, for notebooks and for `--mode=predict`.

model = vlm_jax.load("runs/quickstart")
model.caption("cat.jpg")                      # a str; a list in gives a list out
model.answer("cat.jpg", "what colour is it?")
model.rank("a red circle", ["a.png", "b.png"])
model.caption("cat.mp4")                      # by as many frames as the model was made for
model.embed_audio("cat.wav"), model.rank_for_audio("cat.wav", images=["a.png", "b.png"])
model.chat().say("what is this", ["cat.jpg"])  # a conversation that goes on
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from vlm_jax import checkpoint, experiment, lora, sharding, trees, workdir
from vlm_jax.data import in_memory
from vlm_jax.data.schema import DataError, Source
from vlm_jax.evaluate import Run
from vlm_jax.metrics.recall import products
from vlm_jax.tasks.matching import match_scores
from vlm_jax.weights import adopt
from vlm_jax.weights.folder import read_config

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


class Published(NamedTuple):
    """The origin of a published checkpoint: its family, its config.json and its folder."""

    family: Any
    config: Mapping[str, Any]
    folder: Path


class Model:
    """What a trained run can do. Methods that the run has no task for raise ValueError.

    run: compiled functions and variables, for anything this class does not offer. published: where
    a model that began as a published checkpoint has its config.json and tokenizer files from.
    """

    def __init__(self, run: Run, published: Published | None = None):
        self.run, self.published = run, published
        self._memory: Any = None

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
        task = self._task("prompt", "write captions")
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
        task = self._task("answer", "answer questions")
        asked = in_memory.pictures(images, questions)
        answers = self._all(asked, lambda run, source: task.answer(run, source, **options))
        return answers[0] if single and isinstance(question, str) else answers

    def chat(self, context: int | None = None) -> "Chat":
        """A new conversation; see `vlm_jax.chat.Chat`. context: most tokens of it (None: as many as
        the decoder can read).
        """
        from vlm_jax.chat import Chat  # late: few ask for it

        return Chat(self.run, self._task("turns", "hold a conversation"), context)

    def embed_image(self, image: Image | list[Image]) -> np.ndarray:
        """Unit vectors f32[n, E] of pictures ([E] for a single one); f32[n, Q, E] from a model that
        has several of each picture, of which the best counts (BLIP-2).
        """
        self._task("text", "embed images")
        images, single = _listed(image)
        find = lambda run, source: dict(run.image_embeddings(source))
        vectors = np.stack(self._all(in_memory.pictures(images), find))
        return vectors[0] if single else vectors

    def features(self, image: Image | list[Image]) -> np.ndarray:
        """Vectors f32[n, D] of pictures ([D] for a single one) from any model that has a vision
        encoder: those of `embed_image`, or, without a shared space, the mean of the image's tokens.
        """
        from vlm_jax.memory.encoders import Trained  # late: few ask for it

        images, single = _listed(image)
        find = lambda run, source: dict(Trained(self, "").images(source))
        vectors = np.stack(self._all(in_memory.pictures(images), find))
        return vectors[0] if single else vectors

    def embed_text(self, text: str | list[str]) -> np.ndarray:
        """Unit vectors f32[n, E] of texts ([E] for a single one)."""
        task = self._task("text", "embed texts")
        texts = [text] if isinstance(text, str) else list(text)
        self._fit(len(texts))
        vectors = self.run.text_embeddings(task, texts)
        return vectors[0] if isinstance(text, str) else vectors

    def embed_audio(self, audio: Audio | list[Audio]) -> np.ndarray:
        """Unit vectors f32[n, E] of sounds ([E] for a single one), by as many seconds from their
        beginning as the model listens to.
        """
        if self.run.experiment.read.listen is None:
            raise ValueError("this run cannot embed sounds: it has no config.data.audio")
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
            return _ranking(self.embed_text(list(texts)) @ heard, "text", list(texts))
        return _ranking(self.embed_image(list(images or ())) @ heard, "image", _names(images or ()))

    def rank(self, text: str, images: Sequence[Image]) -> list[dict[str, Any]]:
        """The pictures from best to worst for a text, as {"image", "index", "score"}; score is the
        cosine in [-1, 1].

        A model that reads pictures and texts together orders the best of them anew, by "match", its
        logit plus the cosine; how many, is the task's match.rerank.
        """
        vectors = self.embed_image(list(images)), self.embed_text([text])
        return self._ordered("image", _names(images), vectors, images, [text])

    def rank_texts(self, image: Image, texts: Sequence[str]) -> list[dict[str, Any]]:
        """The texts from best to worst for a picture, as {"text", "index", "score"}, and "match" as
        for `rank`.
        """
        vectors = self.embed_image([image]), self.embed_text(list(texts))
        return self._ordered("text", list(texts), vectors, [image], texts)

    def _ordered(self, kind: str, names: Any, vectors: Any, images: Any, texts: Any) -> Any:
        rows = _ranking(products(*vectors).reshape(-1), kind, names)
        task = self._task("text", "rank")
        match = getattr(task, "matching", None)
        best = rows[: 0 if match is None else match.rerank]
        if not best:
            return rows
        pairs = [(row["index"], 0) if kind == "image" else (0, row["index"]) for row in best]
        self._fit(len(best) if kind == "image" else 1)
        source = in_memory.pictures(images)
        found = match_scores(self.run, task, source, list(texts), np.array(pairs))
        for row, logit in zip(best, found, strict=True):
            row["match"] = round(float(logit) + row["score"], 6)
        return sorted(best, key=lambda row: -row["match"]) + rows[len(best) :]

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
        task = self._task("draw", "draw pictures")
        self._fit(samples)
        pictures = task.draw(self.run, [text] * samples, **options)
        if judge is None:
            return pictures
        return pictures[[row["index"] for row in judge.rank(text, list(pictures))]]

    def _task(self, attribute: str, ability: str) -> Any:
        """The first task with an attribute; ValueError if this run cannot do that."""
        for task in self.run.experiment.tasks.values():
            if hasattr(task, attribute):
                return task
        raise ValueError(
            f"this run cannot {ability}: it was trained for {', '.join(self.run.experiment.tasks)}"
        )

    def _all(self, source: Source, function: Any) -> list[Any]:
        """Results of `function(run, source)` for every example; DataError names those that cannot
        be read.
        """
        self._fit(len(source))
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

    def _fit(self, count: int) -> None:
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


def _names(images: Sequence[Image]) -> list[str | None]:
    """The paths of pictures that have one."""
    return [str(image) if isinstance(image, str | Path) else None for image in images]


def _ranking(scores: np.ndarray, kind: str, names: Sequence[str | None]) -> list[dict[str, Any]]:
    """Best first; equal scores keep the order given."""
    order = np.argsort(-scores, kind="stable")
    return [{kind: names[i], "index": int(i), "score": round(float(scores[i]), 6)} for i in order]


def load(folder: str | Path, *, batch_size: int = 64) -> Model:
    """The newest sound checkpoint of a workdir, with averaged parameters if the run kept them.

    FileNotFoundError if `folder` is no workdir or has no checkpoint yet.
    """
    folder = Path(folder)
    config = workdir.read_config(folder)
    mesh = sharding.make_mesh()
    setup = experiment.build(config, folder)
    entry = "ema" if dict(config["optimizer"]).get("ema") else "params"
    variables = {"params": lora.merge(trees.unflatten(checkpoint.load_params(folder, entry)))}
    try:
        variables["batch_stats"] = trees.unflatten(checkpoint.load_params(folder, "batch_stats"))
    except KeyError:
        pass  # a model without batch normalisation
    shards = sharding.batch_shards(mesh)
    placed = sharding.replicated(mesh)
    variables = {name: jax.device_put(tree, placed) for name, tree in variables.items()}
    run = Run(setup, variables, mesh, -(-batch_size // shards) * shards)
    return Model(run, _published(folder / adopt.SUBFOLDER))


def _published(folder: Path) -> Published | None:
    """Where a run began, if that was a published checkpoint."""
    if not folder.is_dir():
        return None
    from vlm_jax.weights import pretrained  # late, as above

    config = read_config(folder)
    return Published(pretrained.family_of(config), config, folder)


def load_pretrained(folder: str | Path, *, batch_size: int = 64, dtype: Any = None) -> Model:
    """A published checkpoint folder (config.json, *.safetensors, tokenizer and preprocessor files)
    as a model like those of `load`.

    dtype: of the parameters (None: as stored). WeightsError, a ValueError, says what is wrong with
    the folder.
    """
    from vlm_jax.weights import pretrained  # late: brings every family along

    mesh = sharding.make_mesh()
    placed = sharding.replicated(mesh)
    place = lambda path, array: jax.device_put(array, placed)
    found = pretrained.read_folder(folder, dtype=dtype, place=place)
    setup = pretrained.experiment_of(found, folder)
    shards = sharding.batch_shards(mesh)
    run = Run(setup, found.variables, mesh, -(-batch_size // shards) * shards)
    return Model(run, Published(found.family, found.config, Path(folder)))


def export(model: Model, folder: str | Path) -> None:
    """Write a model that began as a published checkpoint as a folder of the same format.

    ValueError for a model made from scratch here: it has no published format. FileExistsError if
    the folder is not empty.
    """
    if model.published is None:
        raise ValueError(
            "this model was not made from a published checkpoint, so there is no format to export "
            "it to: its workdir holds everything"
        )
    from vlm_jax.weights import pretrained  # late, as above

    family, config, source = model.published
    network = pretrained.Pretrained(family, config, model.run.experiment.model, model.run.variables)
    pretrained.write_folder(network, folder, like=source)
