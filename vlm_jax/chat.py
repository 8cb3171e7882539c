"""A conversation about pictures, whose past stays in the decoder's cache of keys and values.

chat = vlm_jax.load("runs/chat").chat()
chat.say("what is left of the red circle", images=["scene.png"])
chat.say("and what is above it")
"""

import dataclasses
import logging
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax import decode
from vlm_jax.data.text import pad
from vlm_jax.data.video_images import as_image
from vlm_jax.evaluate import Run
from vlm_jax.layers.cache import enlarged, rewind
from vlm_jax.types import Features

SLOTS = 256
"""Of a new cache; doubled whenever a turn does not fit."""


class Turn(NamedTuple):
    """What was said, how many pictures were shown with it, and the answer."""

    text: str
    pictures: int
    answer: str


class _Mark(NamedTuple):
    """Where a turn began: how many tokens there were, how many were in the cache, and what the
    decoder keeps beside its slots.
    """

    tokens: int
    read: int
    beside: Mapping[str, Any]


class Chat:
    """One conversation. Each turn reads what is new onto the cache, pictures where they stand in
    it, and writes an answer; nothing is read twice.

    run: of a model with a task "chat", whose decoder reads pictures in the midst of its text
    (memory="insert") or sees none: ValueError otherwise. turns: of the conversation so far.
    tokens: all their ids, answers included. context: most of them that the decoder can read.
    """

    def __init__(self, run: Run, task: Any, context: int | None = None):
        """context: by default the decoder's own limit."""
        decoder = run.experiment.model.decoder
        self._blind = run.experiment.read.fit == "none"
        if getattr(decoder, "memory", None) != "insert" and not self._blind:
            raise ValueError(
                "a chat needs a decoder that reads pictures in the midst of its text, causal_lm "
                'with memory="insert"; this model sees one picture before its text: ask it one '
                "question at a time (--mode=predict --image --question)"
            )
        self.run, self.task = run, task
        self.context = min(context or decoder.max_length, decoder.max_length)
        self._read_image = dataclasses.replace(
            run.experiment.read, augment=None, pictures=None, frames=None
        )
        self._compiled = _programs(run)
        self.reset()

    @property
    def programs(self) -> list[str]:
        """What was compiled so far for conversations with this model: a line for each program."""
        return self._compiled.made

    def reset(self) -> None:
        """Forget everything."""
        self.turns: list[Turn] = []
        self.tokens: list[int] = []
        self._marks: list[_Mark] = []
        self._cache: Any = None
        self._slots = self._read = 0

    def undo(self) -> None:
        """Take back the last turn. ValueError if there is none."""
        if not self.turns:
            raise ValueError("there is no turn to take back")
        mark = self._marks.pop()
        self.turns.pop()
        self.tokens, self._read = self.tokens[: mark.tokens], mark.read
        self._cache = {**rewind(self._cache, mark.read), **mark.beside}

    def say(self, text: str, images: Sequence[Any] = (), *, seed: int = 0, **options: Any) -> str:
        """The answer to a turn.

        text: "<image>" in it stands for the next of `images`; those without a place of their own
        come first. images: as `api.Model` takes them. seed: of drawn answers. options: those of
        `decode.Search`, such as sample=True, temperature=0.7. DataError for a picture that cannot
        be read or more marks than pictures; ValueError where the conversation becomes longer than
        the context, or a picture has another number of tokens than its place. The conversation then
        stays as it was.
        """
        if self._blind and images:
            raise ValueError("this model sees no pictures: say it in words")
        shown = [self._read_image(as_image(image), None)[0] for image in images]
        grids = [x["grid"] if isinstance(x, Mapping) and "grid" in x else None for x in shown]
        experiment, first = self.run.experiment, not self.turns
        said = self.task.turns.said(experiment.tokenizer, text, grids, first=first)
        search = self.run.search(self.task.answer_length, **options)
        new = self.tokens[self._read :] + said
        self._check_length(len(new), len(said), search.max_length)
        with jax.set_mesh(self.run.mesh):
            memory = self._memory(shown, said)
            answer = self._continue(new, memory, search, np.uint32(seed))
        self._marks.append(self._mark)
        self.tokens += [*said, *answer]
        found = experiment.tokenizer.decode(answer).strip()
        self.turns.append(Turn(text, len(images), found))
        return found

    def _check_length(self, new: int, said: int, most: int) -> None:
        """ValueError if what is to be read, and an answer whose last token is not, do not fit."""
        if self._read + new + most - 1 > self.context:
            raise ValueError(
                f"the conversation has {len(self.tokens)} tokens, this turn {said} more, and an "
                f"answer up to {most}: that does not fit the context of {self.context}; begin anew "
                "(/reset), take turns back (/undo), or say it in fewer words and pictures"
            )

    def _memory(self, shown: Sequence[Any], said: Sequence[int]) -> Features | None:
        """The tokens of all pictures of a turn, in order. ValueError if their places are not as
        many.
        """
        places = said.count(self.run.experiment.model.decoder.image_token)
        batch = lambda image: jax.tree.map(lambda x: jnp.asarray(x)[None], image)
        found = [self._compiled.encode(self.run.variables, batch(image)) for image in shown]
        count = sum(int(features.mask.sum()) for features in found)
        if count != places:
            raise ValueError(
                f"{len(shown)} pictures have {count} tokens, but {places} places in the prompt: "
                "set the count of the picture in the chat task's format to the number of tokens "
                "that the vision encoder and its connector make of one picture"
            )
        if not found:
            return None
        join = lambda *parts: jnp.concatenate(parts, axis=1)
        return jax.tree.map(join, *(features._replace(pooled=None) for features in found))

    def _continue(
        self, new: Sequence[int], memory: Features | None, search: decode.Search, seed: np.uint32
    ) -> list[int]:
        """The ids of the answer to what is read next; the cache has read all but the last."""
        size = decode.round_up(len(new))
        self._make_room(max(size, len(new) + search.max_length - 1))
        beside = {name: jnp.copy(x) for name, x in self._cache.items() if name == "ahead"}
        self._mark = _Mark(len(self.tokens), self._read, beside)
        tokens, mask = pad(new, size)
        key = np.uint32(zlib.crc32(np.asarray(self.tokens, np.int32).tobytes()))
        found, self._cache = self._compiled.answer(
            self.run.variables,
            cache=self._cache,
            tokens=tokens[None],
            mask=mask[None],
            memory=memory,
            keys=(np.array([seed]), np.array([key])),
            search=search,
        )
        answer = found.tokens[0, : int(found.lengths[0])].tolist()
        self._read += len(new) + len(answer) - 1
        if answer[-1] not in search.eos:
            answer += self.task.turns.ending(self.run.experiment.tokenizer)
        return answer

    def _make_room(self, count: int) -> None:
        """A cache with that many free slots."""
        slots = max(self._slots, SLOTS)
        while slots < self._read + count:
            slots *= 2
        if slots == self._slots:
            return
        model, most = self.run.experiment.model, self.run.experiment.model.decoder.max_length
        length = min(slots, most)
        empty: Any = model.apply(
            self.run.variables, None, length, slots - length, batch=1, method="init_cache"
        )
        self._cache = empty if self._cache is None else enlarged(self._cache, empty)
        self._slots = slots


class _Programs(NamedTuple):
    """Compiled functions of a model, for all its conversations."""

    encode: Any
    answer: Any
    made: list[str]


@lru_cache(maxsize=4)
def _programs(run: Run) -> _Programs:
    """A picture to Features, and a turn: traced once for each number of tokens, of image tokens and
    of slots.
    """
    model, made = run.experiment.model, []

    def answer(
        variables: Any,
        *,
        cache: Any,
        tokens: Any,
        mask: Any,
        memory: Features | None,
        keys: Any,
        search: decode.Search,
    ) -> tuple[decode.Generated, Any]:
        images = 0 if memory is None else memory.tokens.shape[1]
        slots = cache["position"].shape[-1]
        made.append(f"{tokens.shape[1]} tokens, {images} of images, {slots} slots")
        logging.info("chat program %d: %s", len(made), made[-1])
        decoder = partial(model.apply, variables, method="decode")
        keys = decode.example_keys(*map(jnp.asarray, keys))
        return decode.continued(decoder, cache, tokens, mask, memory, search, keys=keys)

    compiled = jax.jit(answer, static_argnames="search", donate_argnames="cache")
    return _Programs(jax.jit(partial(model.apply, method="encode_image")), compiled, made)
