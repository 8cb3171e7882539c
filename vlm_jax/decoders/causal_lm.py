"""The one causal language model: GPT-2, Llama, Gemma, BERT-type decoders, with or without an image.

How it sees an image is a matter of `memory`: it reads image tokens as if they were text, before
the text or in its midst, or attends to them in layers of their own.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vlm_jax.decoders.output_layer import at, output_layer
from vlm_jax.layers.cache import Placement, both_ways, empty_slots, merge, take, without
from vlm_jax.layers.embed import RelativePositions, TokenEmbedding, insert
from vlm_jax.layers.masks import latest_image_mask, padding_mask, window_mask, zero_padding
from vlm_jax.layers.norms import make_norm
from vlm_jax.layers.packing import placed, places
from vlm_jax.layers.rotary import Rotary, frequencies, image_coordinates, rotary, section_axes
from vlm_jax.layers.transformer import NO_OPTIONS, Options, stack
from vlm_jax.losses import Unembedding
from vlm_jax.types import Cache, Features

MEMORIES = ("prepend", "insert", "attend")
BIDIRECTIONAL = ("prompt", "memory", "none")
APART = ("slot", "position", "hypotheses", "memory", "ahead")
"""Entries of a cache that belong to no layer."""


class CausalLM(nn.Module):
    """A transformer that predicts the next token.

    vocab: V. width: D. max_length: most tokens in all, memory included where it is read as text.
    memory: "prepend", before the text (GIT, arXiv:2205.14100; BLIP-2, arXiv:2301.12597); "insert",
        one memory token in place of each `image_token` of the text (LLaVA, arXiv:2304.08485);
        "attend", by cross-attention to a memory of any width (arXiv:1706.03762, section 3.1): all
        tokens do, or, with an `image_token`, it and those after it (Flamingo, arXiv:2204.14198).
    memory_projection: a dense layer to width D, for memory that is not attended to.
    memory_embedded: memory before the text takes part in positions and embedding_norm; if not, it
        stays as it is, and the text's positions begin at 0 (GIT).
    bidirectional: what is read in both directions: memory and "prompt" together (PaliGemma,
        arXiv:2407.07726), each run of "memory" tokens by itself (GIT, Gemma 3), or "none".
    windowed_blocks: windows also cut what is read in both directions (Gemma 3).
    positions, position_offset: see TokenEmbedding; they count the real tokens of memory and text.
    extra_vocab: further tokens, with tables of their own (Idefics); V counts the others.
    parallel: one more token after these stands for a word to be guessed; such tokens see each other
        in both directions (CapPa, arXiv:2306.07915, section 3.1). For memory="attend".
    ropes: keyword arguments of `rotary.frequencies`, one mapping for all layers or one per kind.
    rope_sections: how many pairs of channels turn with a token's frame, row and column, by turns;
        image tokens then bring their places along, see `rotary.image_coordinates`. Empty: all pairs
        turn with the position in the text.
    windows: how far back a layer of each kind looks, None for all the way. pattern: the kinds of
        successive layers, see `Transformer`. relative: fields of RelativePositions, or None.
    embedding_scaled, embedding_norm: multiply token vectors by sqrt(D); normalise all embeddings.
    tied: logits from the token embedding (arXiv:1608.05859), else from a dense layer of its own.
    logits_bias: added to them (None: unless tied). logits_transform: BERT's dense layer, activation
        and norm before them (arXiv:1810.04805). logits_scale, logits_softcap: multiply what enters
        the output layer; c of c tanh(logits / c).
    final_norm: see `layers.transformer.Transformer`, None for norm_first; the others are its, too.
    """

    vocab: int
    width: int = 256
    layers: int = 4
    heads: int = 8
    mlp_width: int = 1024
    max_length: int = 256
    memory: str = "prepend"
    image_token: int | None = None
    memory_projection: bool = True
    memory_embedded: bool = True
    bidirectional: str = "prompt"
    windowed_blocks: bool = False
    positions: str = "learned"
    position_offset: int = 0
    extra_vocab: int = 0
    parallel: bool = False
    ropes: tuple[Options, ...] = ()
    rope_sections: tuple[int, ...] = ()
    windows: tuple[int | None, ...] = (None,)
    pattern: tuple[int, ...] = ()
    relative: Options | None = None
    embedding_scaled: bool = False
    embedding_norm: bool = False
    tied: bool = True
    logits_bias: bool | None = None
    logits_transform: bool = False
    logits_scale: float = 1.0
    logits_softcap: float | None = None
    parts: tuple[str, ...] | None = None
    norm: str = "layer"
    norm_first: bool = True
    final_norm: bool | str | None = None
    sandwich: bool = False
    epsilon: float = 1e-6
    activation: str = "gelu"
    bias: bool = True
    attention: Options = NO_OPTIONS
    cross: Options = NO_OPTIONS
    mlp: Options = NO_OPTIONS
    cross_gate: str | None = None
    context_norm: bool = False
    cross_every: int = 1
    cross_offset: int = 0
    dropout: float = 0.0
    remat: bool | str = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        memory: Features | None,
        cache: Cache | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        prefix: Int[Array, "B *T"] | None = None,
        after: Int[Array, " B"] | None = None,
        words: Float[Array, "own D"] | None = None,
        sees: Bool[Array, "B T S"] | None = None,
        causal: bool = False,
        segments: Int[Array, "B L"] | None = None,
        positions: Int[Array, "B L"] | None = None,
        later: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "B _ V"] | Unembedding, Cache | None]:
        """Logits after each token, or after those of `after`.

        words: token vectors of another module (T5). sees: which memory tokens each token attends
        to, given with the memory; later ones do as the last does. causal: nothing is read in both
        directions. prefix: how many of the first real tokens are prompt (None: none). segments: of
        memory (where it stands before the text) and text, see layers.packing; prefix is then given
        for every token. positions: likewise, in place of counting. later: return what logits are
        computed from. ValueError for an unknown option, or if memory and text exceed max_length.
        """
        self._check()
        text_real = jnp.ones(tokens.shape, bool) if mask is None else mask
        x = (embed := self._embedding()).words(self._spelled(tokens), words)
        x, real, blocks = self._read(x, tokens, text_real, memory, prefix, segments)
        if segments is None:
            self._check_length(x.shape[1] if self.memory_embedded else tokens.shape[1])
        placement, slots, blocks = placed(self, real, cache, segments, blocks, positions)
        apart = self._apart(memory, cache, len(tokens))
        coordinates, ahead = self._coordinates(tokens, text_real, memory, cache, placement)
        x = self._embed(x, tokens.shape[1], apart, placement, embed)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        context = self._context(memory, cache, sees, tokens)
        x, states = stack(self, **self._own(), name="transformer")(
            x,
            mask=self._visible(placement, None if causal else blocks),
            rotary=self._rotary(placement.positions if coordinates is None else coordinates),
            relative=self._relative(placement),
            slot=placement.slot,
            cache=None if cache is None else _states(cache),
            train=train,
            **context,
        )
        cache = self._cache(states, _last_seen(context, text_real), slots | ahead, apart)
        return output_layer(self, at(x[:, -tokens.shape[1] :], after), embed, words, later), cache

    def init_cache(
        self, memory: Features | None, length: int, extra: int = 0, batch: int | None = None
    ) -> Cache:
        """Zeros for this memory (or None, and a batch) and `length` text tokens.

        extra: how many slots more several hypotheses need (see layers.cache). ValueError if memory
        and text exceed max_length.
        """
        batch = batch if memory is None else memory.tokens.shape[0]
        if batch is None:
            raise ValueError("a cache without memory needs a batch size")
        held = 0 if memory is None else memory.tokens.shape[1]
        slots = length + (held if self.memory == "prepend" else 0)
        self._check_length(slots if self.memory_embedded else length)
        layers = stack(self, **self._own(), parent=None)
        states = layers.empty_cache(self.width, batch, slots + extra, held)
        cache = {**without(states, "cross"), **empty_slots(batch, slots + extra)}
        if self.memory == "attend":
            known = {"mask": jnp.zeros((1, batch, held), bool)}
            cache["memory"] = merge(take(states, "cross"), known)
        elif not self.memory_embedded:
            cache["memory"] = {"length": jnp.zeros((1, batch), jnp.int32)}
        if self.rope_sections:
            cache["ahead"] = jnp.zeros((1, batch), jnp.int32)
        return cache

    def _coordinates(
        self, tokens: Array, real: Array, memory: Features | None, cache: Any, place: Placement
    ) -> tuple[Int[Array, "B T 3"] | None, dict[str, Array]]:
        """Frame, row and column of each token, and the cache's entry `ahead`, i32[1, B]: where the
        next one will stand. (None, {}) if positions in the text are all there is.
        """
        if not self.rope_sections:
            return None, {}
        places = jnp.zeros((*tokens.shape, 3), jnp.int32)
        images = jnp.zeros(tokens.shape, bool)
        if memory is not None:
            if self.memory != "insert" or memory.places is None:
                raise ValueError(
                    'rope_sections need memory="insert" and an encoder that gives places'
                )
            images = (tokens == self.image_token) & real
            places = insert(places, images, memory.places, memory.mask)
        start = jnp.zeros(len(tokens), jnp.int32) if cache is None else cache["ahead"][0]
        if place.branched:
            return jnp.broadcast_to(start[:, None, None], places.shape), {"ahead": start[None] + 1}
        positions, ahead = image_coordinates(places, images, real, start)
        return positions, {"ahead": ahead[None]}

    def _apart(
        self, memory: Features | None, cache: Cache | None, batch: int
    ) -> Int[Array, " B"] | None:
        """How many memory tokens stand before the text without counting as its first positions."""
        if self.memory_embedded:
            return None
        if memory is not None:
            return jnp.sum(memory.mask, axis=1, dtype=jnp.int32)
        return jnp.zeros(batch, jnp.int32) if cache is None else cache["memory"]["length"][0]

    def _embedding(self) -> TokenEmbedding:
        given = (self.vocab, self.width, self.max_length, self.positions, self.dtype)
        more = (self.position_offset, self.embedding_scaled, self.extra_vocab + self.parallel)
        return TokenEmbedding(*given, *more, name="embed")

    def _embed(
        self, x: Array, length: int, apart: Array | None, placement: Placement, embed: Any
    ) -> Float[Array, "B L D"]:
        """X with positions and norm, the memory left out if it stays apart. length: T."""
        norm = self._norm("embedding_norm") if self.embedding_norm else lambda x: x
        if apart is None:
            return norm(embed.locate(x, placement.positions))
        positions = jnp.maximum(placement.positions[:, -length:] - apart[:, None], 0)
        text = norm(embed.locate(x[:, -length:], positions))
        return jnp.concatenate([x[:, :-length], text], axis=1)

    def _spelled(self, tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
        """The tokens; an image token that has no vector reads as any other until it is replaced."""
        if self.image_token is None or self.image_token < self.vocab + self.extra_vocab:
            return tokens
        return jnp.where(tokens == self.image_token, 0, tokens)

    def _read(
        self,
        x: Float[Array, "B T D"],
        tokens: Int[Array, "B T"],
        real: Bool[Array, "B T"],
        memory: Features | None,
        prefix: Int[Array, "B *T"] | None,
        segments: Int[Array, "B L"] | None,
    ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"], Int[Array, "B L"] | None]:
        """Memory and text as one sequence, which of it is real, and its bidirectional blocks."""
        prompt = jnp.zeros_like(real)
        if prefix is not None:
            before = jnp.cumsum(real, axis=1) - 1
            if segments is not None:
                before = places(real, segments[:, -tokens.shape[1] :])
            prompt = real & (before < prefix.reshape(len(prefix), -1))
        if memory is None or self.memory == "attend":
            if self.parallel:
                guessed = (tokens == self.vocab + self.extra_vocab) & real
                return x, real, guessed.astype(jnp.int32)
            blocks = None if prefix is None or self.memory == "attend" else prompt
            return x, real, self._blocks(blocks, None)
        seen = zero_padding(memory.tokens, memory.mask).astype(self.dtype)
        if self.memory_projection:
            seen = nn.Dense(self.width, dtype=self.dtype, name="memory")(seen)
        if self.memory == "insert":
            images = tokens == self.image_token  # [B, T]
            return insert(x, images, seen, memory.mask), real, self._blocks(prompt, images)
        x = jnp.concatenate([seen, x], axis=1)  # [B, S + T, D]
        before = jnp.ones_like(memory.mask)
        images = jnp.concatenate([before, jnp.zeros_like(real)], axis=1)
        prompt = jnp.concatenate([before, prompt], axis=1)
        real = jnp.concatenate([memory.mask, real], axis=1)
        return x, real, self._blocks(prompt, images)

    def _blocks(
        self, prompt: Bool[Array, "B L"] | None, images: Bool[Array, "B L"] | None
    ) -> Int[Array, "B L"] | None:
        """Numbers of the blocks that are read in both directions, 0 for none."""
        if self.bidirectional == "prompt" and prompt is not None:
            return prompt.astype(jnp.int32)
        if self.bidirectional == "memory" and images is not None:
            starts = images & ~jnp.pad(images, ((0, 0), (1, 0)))[:, :-1]
            return jnp.cumsum(starts, axis=1, dtype=jnp.int32) * images
        return None

    def _visible(self, placement: Placement, blocks: Array | None) -> Any:
        """The mask [B, 1, L, M] of every kind of layer; one mask if there is no pattern."""
        masks = []
        back_and_forth = False if blocks is None else both_ways(placement, blocks)
        for window in self.windows:
            near = True
            if window is not None:
                near = window_mask(placement.positions, placement.key_positions, window)
            if self.windowed_blocks:
                masks.append((placement.visible | back_and_forth) & near)
            else:
                masks.append((placement.visible & near) | back_and_forth)
        return masks if self.pattern else masks[0]

    def _rotary(self, positions: Array) -> Rotary | list[Rotary] | None:
        if not self.ropes:
            return None
        head_dim = self.attention.get("head_dim") or self.width // self.heads
        axes = section_axes(self.rope_sections)
        turns = [rotary(positions, frequencies(head_dim, **rope), axes) for rope in self.ropes]
        if not self.pattern:
            return turns[0]
        return turns if len(turns) > 1 else turns * len(self.windows)

    def _relative(self, placement: Placement) -> Float[Array, "B N L M"] | None:
        if self.relative is None:
            return None
        table = RelativePositions(self.heads, **self.relative, bidirectional=False, name="relative")
        return table(placement.positions, placement.key_positions)

    def _context(
        self, memory: Features | None, cache: Cache | None, sees: Array | None, tokens: Array
    ) -> dict[str, Any]:
        """What cross-attention reads: nothing if its keys and values are cached."""
        if self.memory != "attend":
            return {}
        if memory is not None:
            seen = zero_padding(memory.tokens, memory.mask)
            mask = padding_mask(memory.mask)
            if sees is None and self.image_token is not None:
                sees = latest_image_mask(tokens == self.image_token, 1)
            return {"context": seen, "context_mask": mask if sees is None else mask & sees[:, None]}
        if cache is None:
            raise ValueError('memory="attend" needs a memory, or a cache that was filled with one')
        return {"context_mask": padding_mask(cache["memory"]["mask"][0])}

    def _cache(
        self, states: Mapping | None, seen: Array | None, slots: Mapping, apart: Array | None
    ) -> Cache | None:
        if states is None:
            return None
        cache = {**without(states, "cross"), **slots}
        if self.memory == "attend":
            cache["memory"] = merge(take(states, "cross"), {"mask": seen})
        elif apart is not None:
            cache["memory"] = {"length": apart[None]}
        return cache

    def _norm(self, name: str) -> nn.Module:
        return make_norm(self.norm, epsilon=self.epsilon, dtype=self.dtype, name=name)

    def _own(self) -> dict[str, Any]:
        """Fields of the stack that are not simply this module's own."""
        usual = ("self", "cross", "mlp") if self.memory == "attend" else ("self", "mlp")
        final = self.norm_first if self.final_norm is None else self.final_norm
        return {"parts": self.parts or usual, "final_norm": final}

    def _check(self) -> None:
        for name, known in (("memory", MEMORIES), ("bidirectional", BIDIRECTIONAL)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {known}")
        if self.parallel and self.memory != "attend":
            raise ValueError('parallel=True needs memory="attend"')
        if self.memory == "insert" and self.image_token is None:
            raise ValueError('memory="insert" needs image_token, the id that stands for an image')

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise ValueError(
                f"{length} memory and text tokens together do not fit "
                f"max_length={self.max_length}: shorten the text, use fewer image tokens, or raise "
                "max_length in the model's config"
            )


def _last_seen(context: Mapping, real: Bool[Array, "B T"]) -> Bool[Array, "1 B S"] | None:
    """What the last real token attends to in a memory, and those after it will."""
    if "context_mask" not in context:
        return None
    mask = context["context_mask"][:, 0]  # [B, T or 1, S]
    if mask.shape[1] == 1:
        return mask[None, :, 0]
    last = real.shape[1] - 1 - jnp.argmax(real[:, ::-1], axis=1)
    return jnp.take_along_axis(mask, last[:, None, None], axis=1)[None, :, 0]


def _states(cache: Cache) -> dict[str, Any]:
    """The layers' share of a cache, what they know of the memory put back in its place."""
    own = {name: cache[name] for name in cache if name not in APART}
    return merge(own, take(cache.get("memory", {}), "cross"))
