"""What to search for: `Search` is fixed when a program is compiled, `Request` is data, `Generated`
comes out.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from vlm_jax.decode.trie import Trie

NEVER = -1
"""Stands where no token is; it equals none."""


@dataclasses.dataclass(frozen=True)
class Search:
    """How to search; hashable, so it can be a static argument of jit.

    Tokens and scores are those of `transformers.generate`, version 5, for its max_new_tokens
    (max_length here), min_new_tokens (min_length), suppress_tokens (banned), begin_suppress_tokens
    (banned_first), bad_words_ids (banned_words), forced_eos_token_id (force_eos),
    no_repeat_ngram_size, do_sample (sample), num_beams, num_return_sequences (n_best) and the
    options that have the same name.

    max_length: most tokens to generate, the end token included. min_length: tokens that must come
    before an end token. eos: end tokens; pad fills what follows them.

    banned: tokens never to generate. banned_first: tokens that no text begins with, after those
    that are forced. banned_words: sequences of tokens of which the last must not follow the others;
    what is forced comes all the same. forced: the first tokens of every text. force_eos: the token
    at max_length is an end token. repetition_penalty: positive; above 1, scores of tokens that
    prompt or text have already are divided by it where positive and multiplied where negative
    (arXiv:1909.05858, section 4.1). no_repeat_ngram: tokens of an n-gram that prompt and text
    together may have only once; 0 for any.

    sample: draw each token instead of taking the most probable. temperature: divides the logits.
    top_k: draw among so many (0: all). top_p: draw among the fewest that have this much
    probability together, in (0, 1] (arXiv:1904.09751, section 3.1). min_p: draw among those with at
    least this share of the best one's probability, in [0, 1] (arXiv:2407.01082, section 3).

    beams: 1 is greedy. length_penalty: the scores are sum of log-probabilities / length
    ** length_penalty. early_stopping: stop a row once `beams` hypotheses are finished (True), once
    none that is running would beat them if it ended now (False), or ended at max_length ("never").

    n_best: texts to return for each prompt, best first: hypotheses of the beams, or independent
    samples; None returns a single one without that axis. ValueError if impossible.
    """

    max_length: int
    eos: tuple[int, ...]
    min_length: int = 0
    pad: int = 0
    banned: tuple[int, ...] = ()
    banned_first: tuple[int, ...] = ()
    banned_words: tuple[tuple[int, ...], ...] = ()
    forced: tuple[int, ...] = ()
    force_eos: bool = False
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    n_best: int | None = None

    def __post_init__(self):
        """Reject what no search can do."""
        self._check_lengths()
        self._check_tokens()
        self._check_sampling()
        self._check_beams()

    @property
    def hypotheses(self) -> int:
        """How many texts per prompt are written at once."""
        return (self.n_best or 1) if self.sample else self.beams

    def _check_lengths(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length={self.max_length}: generate at least one token")
        if not 0 <= self.min_length <= self.max_length:
            raise ValueError(
                f"min_length={self.min_length} is not in [0, {self.max_length}]: lower it, or "
                "raise max_length"
            )
        if len(self.forced) > self.max_length:
            raise ValueError(
                f"{len(self.forced)} forced tokens do not fit max_length={self.max_length}: raise "
                "max_length or force fewer"
            )

    def _check_tokens(self) -> None:
        named = (self.eos, self.banned, self.banned_first, *self.banned_words, self.forced)
        negative = [t for tokens in (*named, (self.pad,)) for t in tokens if t < 0]
        if negative:
            raise ValueError(f"{negative[0]} is no token id: ids start at 0")
        if not all(self.banned_words):
            raise ValueError("banned_words has a word without tokens: remove it")
        both = sorted(set(self.banned) & set(self.forced))
        if both:
            raise ValueError(f"token {both[0]} is both banned and forced: remove it from one")
        if self.force_eos and set(self.eos) <= set(self.banned):
            raise ValueError("force_eos needs an end token in eos that is not banned")
        if self.repetition_penalty <= 0:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty} must be positive; 1 is none"
            )
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram={self.no_repeat_ngram} is negative; 0 is none")

    def _check_sampling(self) -> None:
        if self.sample and self.beams > 1:
            raise ValueError(
                f"sample=True draws without beams: drop beams={self.beams}; see n_best"
            )
        if not self.sample and (self.temperature, self.top_k, self.top_p, self.min_p) != (
            1.0,
            0,
            1.0,
            0.0,
        ):
            raise ValueError("temperature, top_k, top_p and min_p need sample=True")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature} must be positive: for greedy search drop sample"
            )
        if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise ValueError(
                f"top_k={self.top_k}, top_p={self.top_p}, min_p={self.min_p}: the first is at "
                "least 0, the second in (0, 1], the third in [0, 1]"
            )

    def _check_beams(self) -> None:
        if self.beams < 1:
            raise ValueError(f"beams={self.beams} must be positive; 1 is greedy")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping={self.early_stopping!r}: use True, False or "never"')
        if self.n_best is not None and not 1 <= self.n_best <= (
            self.n_best if self.sample else self.beams
        ):
            raise ValueError(f"n_best={self.n_best} is not in [1, beams={self.beams}]")


class Request(NamedTuple):
    """What each row of a batch asks for: arrays, so that other values compile nothing anew.

    prompt: i32[B, P], real tokens last, `NEVER` before them. limit: i32[B], as max_length but of a
    row, at most Search.max_length. keys: random keys [B], None where nothing is drawn. trie: the
    texts to choose from, None for any.
    """

    prompt: Int[Array, "B P"]
    limit: Int[Array, " B"]
    keys: Key[Array, " B"] | None = None
    trie: Trie | None = None


class Generated(NamedTuple):
    """What a search found; where there is an n-best axis, best first, it follows B.

    tokens: i32[B, T], end token included, then padding; T = max_length. lengths: i32[B], end token
    included; 0 where nothing was found. scores: f32[B], sum of log-probabilities / length **
    length_penalty; beams sum what they compete by, after repetition penalty and forced tokens;
    -inf marks an n-best place that nothing could fill. logprobs: f32[B, T], in nats, 0 at padding;
    they are the model's own, not renormalised over the tokens that were allowed.
    """

    tokens: Int[Array, "B *K T"]
    lengths: Int[Array, "B *K"]
    scores: Float[Array, "B *K"]
    logprobs: Float[Array, "B *K T"]


def make_request(
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    search: Search,
    *,
    limit: Int[Array, " B"] | None = None,
    keys: Key[Array, " B"] | None = None,
    trie: Trie | None = None,
) -> Request:
    """A request from prompts padded on either side; ValueError if a sampling search has no keys.

    prompt = 5 6 0, prompt_mask = 1 1 0 becomes - 5 6
    """
    if search.sample and keys is None:
        raise ValueError("sample=True needs one random key per row: see decode.example_keys")
    if trie is not None and (search.forced or search.force_eos):
        raise ValueError("forced tokens and a trie: put the forced tokens in front of its texts")
    if trie is not None and (search.banned_first or search.banned_words):
        raise ValueError("banned_first or banned_words and a trie: leave the texts out of its list")
    order = jnp.argsort(prompt_mask, axis=1, stable=True)
    packed = jnp.take_along_axis(jnp.where(prompt_mask, prompt, NEVER), order, axis=1)
    most = jnp.full(len(prompt), search.max_length, jnp.int32)
    limit = most if limit is None else jnp.clip(limit, 1, most)
    return Request(packed.astype(jnp.int32), limit, keys if search.sample else None, trie)


def example_keys(
    seed: Int[Array, " B"] | UInt32[Array, " B"], example: Int[Array, " B"] | UInt32[Array, " B"]
) -> Key[Array, " B"]:
    """One random key per row, from a seed and what identifies the example, such as its position.

    Neither the row nor the batch takes part, so an example draws the same text wherever it stands.
    """
    return jax.vmap(lambda s, e: jax.random.fold_in(jax.random.key(s), e))(seed, example)


def nothing_yet(batch: int, hypotheses: int, search: Search) -> Generated:
    """Empty texts with score 0, [B, K, ...]."""
    shape = (batch, hypotheses)
    tokens = jnp.full((*shape, search.max_length), search.pad, jnp.int32)
    return Generated(
        tokens, jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.zeros(tokens.shape, jnp.float32)
    )


def normalise(scores: Float[Array, "*B"], lengths: Int[Array, "*#B"], search: Search) -> Array:
    """Scores / lengths ** length_penalty; lengths of 0 count as 1."""
    return scores / jnp.maximum(lengths, 1).astype(jnp.float32) ** search.length_penalty


def is_eos(tokens: Int[Array, "*B"], search: Search) -> Bool[Array, "*B"]:
    """Which tokens end a text."""
    return jnp.isin(tokens, np.array(search.eos, np.int32))
