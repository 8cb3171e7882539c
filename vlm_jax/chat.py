"""A conversation about pictures, whose past stays in the decoder's cache of keys and values.

chat = vlm_jax.load("runs/chat").chat()
chat.say("what is left of the red circle", images=["scene.png"])
chat.say("and what is above it")
for piece in chat.stream("and below it"):
    print(piece, end="", flush=True)
"""

import dataclasses
import logging
import time
import weakref
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax import decode
from vlm_jax.data.text import pad
from vlm_jax.data.video_images import as_image
from vlm_jax.decode.continued import Draft, unread
from vlm_jax.evaluate import Run
from vlm_jax.interrupts import undisturbed
from vlm_jax.layers.cache import enlarged
from vlm_jax.types import Features

SLOTS = 256
"""Of a new cache; doubled whenever a turn does not fit."""

GROUP = 4
"""Tokens that are shown at a time."""


class Turn(NamedTuple):
    """What was said, how many pictures were shown with it, and the answer."""

    text: str
    pictures: int
    answer: str


class Pace(NamedTuple):
    """How long an answer took: its tokens, and seconds to the first and to the last of them."""

    tokens: int
    first: float
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second after the first; 0 for a single one."""
        return (self.tokens - 1) / max(self.seconds - self.first, 1e-9)


class _Mark(NamedTuple):
    """Where a turn began: how many tokens there were, how many were in the cache, the pictures
    among the others, and what the decoder keeps beside its slots.
    """

    tokens: int
    read: int
    seen: tuple[Features, ...]
    ahead: Any


class Chat:
    """One conversation. Each turn reads what is new onto the cache, pictures where they stand in
    it, and writes an answer; nothing is read twice.

    run: of a model with a task "chat", whose decoder reads pictures in the midst of its text
    (memory="insert") or sees none: ValueError otherwise. turns: of the conversation so far.
    tokens: all their ids, answers included. context: most of them that the decoder can read. pace:
    of the last answer.
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
        self._writing: weakref.ref[Generator[str, None, None]] | None = None
        self.reset()

    @property
    def programs(self) -> list[str]:
        """What was compiled so far to read turns with this model: a line for each program. What
        writes answers is compiled once for each number of slots.
        """
        return self._compiled.made

    def reset(self) -> None:
        """Forget everything."""
        self._stop()
        self.turns: list[Turn] = []
        self.tokens: list[int] = []
        self.pace: Pace | None = None
        self._marks: list[_Mark] = []
        self._seen: tuple[Features, ...] = ()
        self._cache: Any = None
        self._slots = self._read = 0
        self._cut: tuple[int, Any] | None = None

    def undo(self) -> None:
        """Take back the last turn. ValueError if there is none."""
        self._stop()
        if not self.turns:
            raise ValueError("there is no turn to take back")
        self.turns.pop()
        self.tokens = self.tokens[: self._marks[-1].tokens]
        self._take_back()

    def _mark(self) -> _Mark:
        """Where the next turn begins."""
        self._settle()
        ahead = np.zeros((1, 1), np.int32)
        if self._cache is not None and "ahead" in self._cache:
            ahead = jnp.copy(self._cache["ahead"])
        return _Mark(len(self.tokens), self._read, self._seen, ahead)

    def _take_back(self) -> None:
        """What was read since the last turn began has not been read."""
        mark = self._marks.pop()
        self._read, self._seen = mark.read, mark.seen
        self._cut = (mark.read, mark.ahead)

    def _settle(self) -> None:
        """The cache without what was taken back or written in vain; late, because what ends an
        answer may be the collection of garbage, in the midst of other programs.
        """
        if self._cut is not None and self._cache is not None:
            length, ahead = self._cut
            self._cache = unread(self._cache, length)
            if "ahead" in self._cache and ahead is not None:
                self._cache = {**self._cache, "ahead": jnp.asarray(ahead)}
        self._cut = None

    def recall(self, text: str, answer: str, images: Sequence[Any] = ()) -> None:
        """A turn that was held elsewhere, with the answer that was given there; it is read together
        with the next one. Other arguments and errors are those of `say`.
        """
        self._stop()
        answered = self.task.turns.answered(self.run.experiment.tokenizer, answer)
        said, seen = self._understood(text, images, 1 + len(answered))
        self._marks.append(self._mark())
        self.tokens += [*said, *answered]
        self._seen += seen
        self.turns.append(Turn(text, len(images), answer))

    def say(self, text: str, images: Sequence[Any] = (), *, seed: int = 0, **options: Any) -> str:
        """The answer to a turn.

        text: "<image>" in it stands for the next of `images`; those without a place of their own
        come first. images: as `api.Model` takes them. seed: of drawn answers. options: those of
        `decode.Search`, such as sample=True, temperature=0.7. DataError for a picture that cannot
        be read or more marks than pictures; ValueError where the conversation becomes longer than
        the context, or a picture has another number of tokens than its place. The conversation then
        stays as it was.
        """
        list(self.stream(text, images, seed=seed, group=None, **options))
        return self.turns[-1].answer

    def stream(
        self,
        text: str,
        images: Sequence[Any] = (),
        *,
        seed: int = 0,
        group: int | None = GROUP,
        **options: Any,
    ) -> Generator[str, None, None]:
        """The answer of `say` in pieces, as it is written; together they are that answer, unless
        what is written last changes how bytes before it are spelt.

        group: tokens of a piece (None: all at once). Other arguments, and errors, are those of
        `say`, when the first piece is asked for. `close()`, Ctrl-C or anything else that is asked
        of this chat ends the turn: its answer is what was written so far; without any it was none.
        """
        self._stop()
        pieces = self._pieces(text, images, np.uint32(seed), group, options)
        self._writing = weakref.ref(pieces)
        return pieces

    def _stop(self) -> None:
        """Ends the answer that is being written, if any."""
        pieces = None if self._writing is None else self._writing()
        if pieces is not None:
            pieces.close()

    def _pieces(
        self,
        text: str,
        images: Sequence[Any],
        seed: np.uint32,
        group: int | None,
        options: Mapping[str, Any],
    ) -> Generator[str, None, None]:
        began, first, shown = time.perf_counter(), 0.0, ""
        search = self.run.search(self.task.answer_length, **options)
        said, seen = self._understood(text, images, search.max_length)
        new = self.tokens[self._read :] + said
        found: list[int] = []
        whole = False
        try:
            begun = self._begin(new, _joined(self._seen + seen), search, seed)
            for part in self._written(begun, search, group):
                found, whole = part
                first = first or time.perf_counter() - began
                so_far = self._spelt(found).rstrip("\ufffd")  # which may be half a letter
                if so_far.startswith(shown) and so_far != shown:
                    piece, shown = so_far[len(shown) :], so_far
                    yield piece
        finally:
            self._end(Turn(text, len(images), self._spelt(found)), said, len(new), found, whole)
            self.pace = Pace(len(found), first, time.perf_counter() - began)
        answer = self.turns[-1].answer
        if answer.startswith(shown) and answer != shown:
            yield answer[len(shown) :]

    def _spelt(self, answer: Sequence[int]) -> str:
        return self.run.experiment.tokenizer.decode(answer).strip()

    def _understood(
        self, text: str, images: Sequence[Any], most: int
    ) -> tuple[list[int], tuple[Features, ...]]:
        """The ids of a turn, to which `most` tokens are to be added, and those of its pictures;
        errors as of `say`.
        """
        if self._blind and images:
            raise ValueError("this model sees no pictures: say it in words")
        shown = [self._read_image(as_image(image), None)[0] for image in images]
        grids = [x["grid"] if isinstance(x, Mapping) and "grid" in x else None for x in shown]
        tokenizer, first = self.run.experiment.tokenizer, not self.turns
        said = self.task.turns.said(tokenizer, text, grids, first=first)
        self._check_length(len(self.tokens) - self._read + len(said), len(said), most)
        with jax.set_mesh(self.run.mesh):
            return said, self._encoded(shown, said)

    def _check_length(self, new: int, said: int, most: int) -> None:
        """ValueError if what is to be read, and an answer whose last token is not, do not fit."""
        if self._read + new + most - 1 > self.context:
            raise ValueError(
                f"the conversation has {len(self.tokens)} tokens, this turn {said} more, and an "
                f"answer up to {most}: that does not fit the context of {self.context}; begin anew "
                "(/reset), take turns back (/undo), or say it in fewer words and pictures"
            )

    def _encoded(self, shown: Sequence[Any], said: Sequence[int]) -> tuple[Features, ...]:
        """The tokens of each picture of a turn. ValueError if their places are not as many."""
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
        return tuple(features._replace(pooled=None) for features in found)

    def _begin(
        self, new: Sequence[int], memory: Features | None, search: decode.Search, seed: np.uint32
    ) -> Draft:
        """Reads what is new, and writes the first token of the answer."""
        size = decode.round_up(len(new))
        tokens, mask = pad(new, size)
        key = np.uint32(zlib.crc32(np.asarray(self.tokens, np.int32).tobytes()))
        with undisturbed(), jax.set_mesh(self.run.mesh):
            mark = self._mark()
            self._make_room(max(size, len(new) + search.max_length - 1))
            begun, self._cache = self._compiled.read(
                self.run.variables,
                cache=self._cache,
                tokens=tokens[None],
                mask=mask[None],
                memory=memory,
                keys=(np.array([seed]), np.array([key])),
                search=search,
            )
            self._marks.append(mark)
            self._seen = ()
        return begun

    def _written(
        self, begun: Draft, search: decode.Search, group: int | None
    ) -> Iterator[tuple[list[int], bool]]:
        """(ids so far, whether that is all) again and again. What comes next is asked for before
        what is there is looked at, so the device does not wait for whoever reads.
        """
        until, most = 1, search.max_length
        while True:
            later = begun
            if until < most:
                until = min(until + (group or most), most)
                with undisturbed(), jax.set_mesh(self.run.mesh):
                    later, self._cache = self._compiled.write(
                        *(self.run.variables, np.int32(until)),
                        cache=self._cache,
                        begun=begun,
                        search=search,
                    )
            tokens, length, done = jax.device_get((begun.tokens, begun.length, begun.done))
            yield tokens[: int(length)].tolist(), bool(done)
            if done:
                return
            begun = later

    def _end(self, turn: Turn, said: list[int], new: int, found: list[int], whole: bool) -> None:
        """The turn is over. said: its ids; new: how many were read; found: those of the answer, and
        whether that is the whole of it.
        """
        if len(self._marks) == len(self.turns):
            return  # nothing was read
        if not found:
            return self._take_back()
        tokenizer = self.run.experiment.tokenizer
        self._read = self._marks[-1].read + new + len(found) - 1
        self._cut = None if whole else (self._read, None)
        ending = [] if found[-1] in tokenizer.ends else self.task.turns.ending(tokenizer)
        self.tokens += [*said, *found, *ending]
        self.turns.append(turn)

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


def _joined(seen: Sequence[Features]) -> Features | None:
    """The tokens of all pictures, one after the other."""
    join = lambda *parts: jnp.concatenate(parts, axis=1)
    return jax.tree.map(join, *seen) if seen else None


class _Programs(NamedTuple):
    """Compiled functions of a model, for all its conversations."""

    encode: Any
    read: Any
    write: Any
    made: list[str]


@lru_cache(maxsize=4)
def _programs(run: Run) -> _Programs:
    """A picture to Features; a turn that is read, traced for each number of tokens, of image tokens
    and of slots; and what is written after it, traced for each number of slots.
    """
    model, made = run.experiment.model, []
    decoder = lambda variables: partial(model.apply, variables, method="decode")

    def read(
        variables: Any,
        *,
        cache: Any,
        tokens: Any,
        mask: Any,
        memory: Features | None,
        keys: Any,
        search: decode.Search,
    ) -> tuple[Draft, Any]:
        images = 0 if memory is None else memory.tokens.shape[1]
        slots = cache["position"].shape[-1]
        made.append(f"{tokens.shape[1]} tokens, {images} of images, {slots} slots")
        logging.info("chat program %d: %s", len(made), made[-1])
        keys = decode.example_keys(*map(jnp.asarray, keys))
        return decode.draft(decoder(variables), cache, tokens, mask, memory, search, keys=keys)

    def write(variables: Any, until: Any, *, cache: Any, begun: Draft, search: Any) -> Any:
        return decode.write_on(decoder(variables), cache, begun, search, until)

    once = partial(jax.jit, static_argnames="search", donate_argnames="cache")
    encode = jax.jit(partial(model.apply, method="encode_image"))
    return _Programs(encode, once(read), once(write), made)
