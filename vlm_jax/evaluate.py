"""Running a model over data: compiled functions, every example exactly once, results by
position.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from vlm_jax import decode, kwargs, processes, sharding
from vlm_jax.data.pipeline import Loader, Skipped, eval_batches, stack
from vlm_jax.data.schema import DataError, Example, Source
from vlm_jax.experiment import Experiment, asked
from vlm_jax.layers.apart import stepper, with_apart
from vlm_jax.metrics import Score
from vlm_jax.models.rows import match_scores
from vlm_jax.tables import INTERVAL
from vlm_jax.types import Batch, Variables, summary
from vlm_jax.workdir import atomic_write_text

Inputs = Callable[[Example], Mapping[str, np.ndarray]]

STEPS = 256
"""Tokens one after the other from which on a decoder's layers are taken apart, see layers.apart."""


class Run:
    """A model with its variables, and what evaluators and the Python interface ask of it.

    variables: may be replaced at any time (training does) without compiling anew. batch_size:
    global. predictions: where `save_predictions` writes, or None. skipped: broken examples met so
    far. programs: what was compiled for writing text.
    """

    def __init__(
        self,
        experiment: Experiment,
        variables: Variables,
        mesh: jax.sharding.Mesh,
        batch_size: int,
        predictions: Path | None = None,
    ):
        self.experiment, self.variables, self.mesh = experiment, variables, mesh
        self.batch_size, self.predictions, self.skipped = batch_size, predictions, Skipped()
        self.programs = decode.Programs()
        self._functions: dict[Any, Callable] = {}

    def rows(
        self, ask: str, source: Source, inputs: Inputs
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(position, outputs of the model method `ask`) for every sound example of the source, in
        order.
        """
        model = self.experiment.model

        def outputs(variables: Variables, batch: Batch) -> dict[str, Any]:
            found: Any = model.apply(variables, batch, {"inputs": ask})
            return found["inputs"]

        yield from self._map(("rows", ask), outputs, source, inputs)

    def write(
        self,
        source: Source,
        inputs: Inputs,
        length: int,
        *,
        seed: int = 0,
        choices: Sequence[str] | None = None,
        **options: Any,
    ) -> dict[int, Any]:
        """The text that the decoder writes for every sound example, by position; with n_best, a
        list of texts, best first.

        length: most tokens to write. seed: of drawn texts, which depend on it and the example's id
        alone. choices: the only texts that may be written. options: those of
        `vlm_jax.decode.Search`.
        """
        given = {"seed": seed, "choices": choices, **options}
        written = self.write_tokens(source, inputs, length, **given)
        return {position: self._texts(tokens) for position, tokens in written}

    def write_tokens(
        self,
        source: Source,
        inputs: Inputs,
        length: int,
        *,
        seed: int = 0,
        choices: Sequence[str] | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Int[np.ndarray, "*n T"]]]:
        """(position, tokens) of what `write` writes; after the end of a text stands padding."""
        search = self.search(length, **options)
        choices = None if choices is None else tuple(choices)
        ask = lambda example: {**inputs(example), **_randomness(example, seed)}
        key, writer, made = ("write", search, choices), self._writer(search, choices), None
        if length * math.ceil(len(source) / self.batch_size) >= STEPS:
            with jax.set_mesh(self.mesh):
                made = with_apart(self.variables)
        for position, row in self._map(key, writer, source, ask, variables=made):
            yield position, row["tokens"]

    def search(self, length: int, **options: Any) -> decode.Search:
        """How texts of at most `length` tokens are written with this run's tokenizer: none of its
        special tokens but those that end a text. options: those of `vlm_jax.decode.Search`.
        """
        tokenizer = self.experiment.tokenizer
        special = {tokenizer.pad, tokenizer.bos, tokenizer.mask} - {*tokenizer.ends, None}
        # Rows of the table that only round up its size stand for no token.
        vocab = self.experiment.model.decoder.vocab
        unused = range(tokenizer.size, vocab)
        special = {index for index in special if index < vocab}
        return kwargs.call(
            decode.Search,
            options,
            "options",
            max_length=length,
            eos=tokenizer.ends,
            banned=(*sorted(special), *unused),
            pad=tokenizer.pad,
        )

    def _texts(self, tokens: np.ndarray) -> Any:
        if tokens.ndim > 1:
            return [self._texts(text) for text in tokens]
        return self.experiment.tokenizer.decode(tokens.tolist())

    def _writer(self, search: decode.Search, choices: tuple[str, ...] | None) -> Callable:
        """A function of (variables, batch) that reads image and prompt once and then decodes in one
        loop.
        """
        model, trie = self.experiment.model, None
        if choices is not None:
            texts = [self.experiment.tokenizer.encode(choice) for choice in choices]
            names = ("eos", "max_length", "min_length", "banned")
            trie = decode.make_trie(texts, **{name: getattr(search, name) for name in names})

        def write(variables: Variables, batch: Batch) -> dict[str, Any]:
            prompt = batch["inputs"]
            size, length = prompt["tokens"].shape
            self.programs.note(size, length, search)
            ask: Any = lambda method: partial(model.apply, variables, method=method)
            memory = ask("read")(batch.get("image"), prompt)
            rows = {} if memory is not None else {"batch": size}
            found = decode.generate(
                *(ask("decode"), partial(ask("init_cache"), **rows)),
                *(prompt["tokens"], prompt["tokens_mask"], memory, search),
                prefix=prompt["prefix"],
                keys=decode.example_keys(prompt["seed"], prompt["example"]),
                trie=trie,
                step=stepper(model, variables),
            )
            return found._asdict()

        return write

    def image_embeddings(self, source: Source) -> Iterator[tuple[int, np.ndarray]]:
        """(position, unit vector f32[E], or several f32[Q, E]) for every readable image of the
        source.
        """
        model = self.experiment.model
        embed = lambda variables, batch: {
            "embeds": model.apply(variables, batch["image"], method="embed_image")
        }
        for position, row in self._map("embed_image", embed, source, lambda example: {}):
            yield position, row["embeds"]

    def audio_embeddings(self, source: Source) -> Iterator[tuple[int, np.ndarray]]:
        """(position, unit vector f32[E]) for every readable sound of the source."""
        model = self.experiment.model
        embed = lambda variables, batch: {
            "embeds": model.apply(variables, batch["audio"], method="embed_audio")
        }
        for position, row in self._map("embed_audio", embed, source, lambda _: {}, "audio"):
            yield position, row["embeds"]

    def matches(
        self, source: Source, inputs: Inputs, match_class: int = -1, apart: bool = False
    ) -> Iterator[tuple[int, Float[np.ndarray, " K"]]]:
        """(position, logits that a picture and each of its texts belong together) for every
        readable picture. inputs: `text` i32[K, T] and `text_mask`, K texts of an example.
        match_class, apart: which of the model's scores say so, see `models.rows.match_scores`.
        """
        model = self.experiment.model

        def judge(variables: Variables, batch: Batch) -> dict[str, Any]:
            visual = model.apply(variables, batch["image"], method="encode_image")

            def match(texts: Batch) -> jax.Array:
                found: Any = model.apply(variables, visual, texts, method="understand")
                return match_scores(found, apart)[:, match_class]

            by_number = jax.tree.map(lambda x: x.swapaxes(0, 1), batch["inputs"])
            return {"matches": jax.lax.map(match, by_number).T}

        for position, row in self._map(("matches", match_class, apart), judge, source, inputs):
            yield position, row["matches"]

    def text_embeddings(self, task: Any, texts: list[str]) -> np.ndarray:
        """Unit vectors f32[n, E] of texts, read as `task` (with a method `text`) reads them."""
        model = self.experiment.model
        embed = lambda variables, batch: {
            "embeds": model.apply(variables, batch, method="embed_text")
        }
        rows = self.compute("embed_text", embed, [task.text(text) for text in texts])
        return np.stack([row["embeds"] for row in rows])

    def features(
        self, source: Source, inputs: Inputs = lambda example: {}
    ) -> Iterator[tuple[int, Float[np.ndarray, " D"]]]:
        """(position, one vector) of every readable picture, or, where `inputs` are those of a text,
        of both together: what the encoder pools, or the mean of its tokens. A classifier that the
        vision encoder may end in is left out.
        """
        model = _without_classes(self.experiment.model)

        def summed(variables: Variables, batch: Batch) -> dict[str, Any]:
            visual = model.apply(variables, batch["image"], method="encode_image")
            text = batch["inputs"]
            seen: Any = model.apply(variables, visual, text, method="fuse") if text else visual
            return {"features": summary(seen)}

        for position, row in self._map("features", summed, source, inputs):
            yield position, row["features"].astype(np.float32)

    def text_features(self, rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        """The same of texts alone, as the text encoder reads them."""
        model = self.experiment.model

        def summed(variables: Variables, batch: Batch) -> dict[str, Any]:
            seen: Any = model.apply(variables, batch, method="encode_text")
            return {"features": summary(seen)}

        found = self.compute("text_features", summed, rows)
        return [row["features"].astype(np.float32) for row in found]

    def losses(self, task: Any, rows: Sequence[dict[str, Any]]) -> Float[np.ndarray, " n"]:
        """What a task that reads no picture loses on each of its preprocessed rows."""
        model, ask = self.experiment.model, asked(task)

        def lost(variables: Variables, batch: Batch) -> dict[str, Any]:
            given = {name: x for name, x in batch.items() if name not in ("index", "valid")}
            found: Any = model.apply(variables, {"texts": given}, {"texts": ask})
            return {"loss": task.loss(found["texts"], given)}

        found = self.compute(("losses", task.head, id(task)), lost, rows)
        return np.array([row["loss"] for row in found], np.float32)

    def compute(
        self, key: Any, function: Callable, rows: Sequence[dict[str, Any]]
    ) -> list[dict[str, np.ndarray]]:
        """What `function(variables, batch)` makes of inputs that are there already, row by row;
        compiled once per key.
        """
        compiled, found = self._compiled(key, function), []
        for start in range(0, len(rows), self.batch_size):
            part = list(rows[start : start + self.batch_size])
            full = part + [part[-1]] * (self.batch_size - len(part))
            columns = self._call(compiled, self._own_rows(stack(full)))
            found += [{name: x[i] for name, x in columns.items()} for i in range(len(part))]
        return found

    def save_predictions(self, rows: list[Mapping[str, Any]]) -> None:
        """One JSON object per line into `self.predictions`, if there is such a path; the first
        process writes.
        """
        if self.predictions is not None and processes.is_first():
            self.predictions.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(
                self.predictions,
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            )

    def _map(
        self,
        key: Any,
        function: Callable,
        source: Source,
        inputs: Inputs,
        kind: str = "image",
        *,
        variables: Any = None,
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(position, row of outputs) of a compiled function over the pictures, or the sounds, of a
        source; one batch is computed while one is read. variables: None for the run's own.
        """
        variables = self.variables if variables is None else variables
        processes.check_one_shape(self.experiment.read)
        read = self.experiment.read.only(kind)
        loader = Loader(source, read, {"inputs": lambda e, _: inputs(e)}, skipped=self.skipped)
        compiled, waiting = self._compiled(key, function), None
        rows = sharding.own_rows(self.mesh, self.batch_size)
        for batch in eval_batches(loader, batch_size=self.batch_size, rows=rows):
            with jax.set_mesh(self.mesh):
                computing = compiled(variables, sharding.shard_batch(self.mesh, batch))
            if waiting is not None:
                yield from _valid_rows(waiting)
            waiting = computing
        if waiting is not None:
            yield from _valid_rows(waiting)

    def _compiled(self, key: Any, function: Callable) -> Callable:
        """Jit of `function`, made once per key; position and validity travel along so that
        processes can be joined.
        """
        if key not in self._functions:

            def with_position(variables: Variables, batch: Batch) -> dict[str, Any]:
                passed = {name: batch[name] for name in ("index", "valid") if name in batch}
                return passed | function(variables, batch)

            self._functions[key] = jax.jit(with_position)
        return self._functions[key]

    def _call(self, function: Callable, batch: Batch) -> dict[str, np.ndarray]:
        with jax.set_mesh(self.mesh):
            return _to_host(function(self.variables, sharding.shard_batch(self.mesh, batch)))

    def _own_rows(self, batch: Batch) -> Batch:
        """This process's share of a batch that every process holds whole."""
        rows = sharding.own_rows(self.mesh, self.batch_size)
        return jax.tree.map(lambda x: x[rows], batch)


def _randomness(example: Example, seed: int) -> dict[str, Any]:
    """What the random key of an example is made from, wherever the example stands."""
    return {"seed": np.uint32(seed), "example": np.uint32(zlib.crc32(example["id"].encode()))}


def _without_classes(model: Any) -> Any:
    """The model with a vision encoder that does not classify."""
    if getattr(model.vision, "classes", None) is None:
        return model
    return model.clone(vision=model.vision.clone(classes=None))


def _to_host(outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """All rows of all processes as NumPy arrays; values without a batch axis are left out."""
    batched = {name: value for name, value in outputs.items() if np.ndim(value)}
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(batched, tiled=True)
    return jax.device_get(batched)


def _valid_rows(outputs: dict[str, Any]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(position, row) of every row that is an example and not a filler."""
    columns = _to_host(outputs)
    valid, index = columns.pop("valid"), columns.pop("index")
    for row in np.flatnonzero(valid):
        yield int(index[row]), {name: column[row] for name, column in columns.items()}


def evaluate(
    run: Run, name: str, section: Mapping[str, Any], source: Source, train: Source | None
) -> dict[str, float]:
    """The metrics of one entry of config.evals as {"name/metric": value}, and where the task knows
    its interval, "name/metric/low" and "/high"; `name/skipped` counts unreadable examples.
    """
    before, task = run.skipped.count, run.experiment.tasks[section["task"]]
    options = dict(section.get("options") or {})
    metrics = {}
    for metric, found in task.evaluate(run, source, train, **options):
        value, *limits = found[:3] if isinstance(found, Score) else (found,)
        metrics[f"{name}/{metric}"] = value
        metrics |= {
            f"{name}/{metric}/{end}": limit for end, limit in zip(INTERVAL, limits, strict=False)
        }
    if run.skipped.count > before:
        metrics[f"{name}/skipped"] = float(run.skipped.count - before)
    return metrics


def rehearse(setup: Experiment, name: str, task: str, source: Source) -> None:
    """Preprocess one example of an evaluation set, so that its mistakes show before training does.

    DataError, naming the evaluation, if none of the first hundred examples has what the task reads.
    """
    read = setup.read.only(*getattr(setup.tasks[task], "between", ("image",)))
    loader = Loader(source, read, {task: setup.tasks[task].preprocess})
    try:
        loader(0)
    except DataError as error:
        raise DataError(f"config.evals.{name}: {error}") from error
