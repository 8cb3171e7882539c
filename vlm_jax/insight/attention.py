"""Explanations by attention: what was looked at directly, rollout, and gradient-weighted relevance.

All three follow the attentions of a model in the order in which they are made, and keep for every
token of every stream (picture, text, decoder's tokens, learned queries) a row that says how much of
it comes from each image token.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vlm_jax.fusion.concat import ConcatFusion
from vlm_jax.insight.subject import NothingSeen, Subject, scores
from vlm_jax.models import watch
from vlm_jax.types import Variables

NOTHING = (
    "nothing in this model attends to image tokens on the way to this output: use a method by "
    "gradients, such as grad_cam"
)


class Stream(NamedTuple):
    """A sequence of n tokens. shares: f32[B, n, S], how much of each comes from S image tokens.

    image: bool[B, n], the tokens that are image tokens themselves.
    """

    shares: Float[Array, "B n S"]
    image: Bool[Array, "B n"]


Streams = dict[str, Stream]


class Rule(NamedTuple):
    """How shares flow. mix: old and attended shares to new ones. direct: in self-attention only
    image tokens are looked at, and only others look.
    """

    mix: Callable[[Array, Array], Array]
    direct: bool = False


def attended(model: Any, variables: Variables, subject: Subject) -> Float[Array, "B S"]:
    """How much the token that decides looks at each image token: the mean over heads and layers.

    It is the token before the word for a decoder, what is pooled for a classifier or an embedding.
    NothingSeen for a model in which nothing attends to image tokens.
    """
    rule = Rule(lambda old, new: old + new, direct=True)
    return _explained(model, variables, subject, rule, _seen(model, variables, subject))


def rollout(model: Any, variables: Variables, subject: Subject) -> Float[Array, "B S"]:
    """Attention multiplied through all layers, half of it the residual (arXiv:2005.00928, 3).

    Through the vision encoder, the fusion and the decoder, as far as they attend. NothingSeen as in
    `attended`.
    """
    rule = Rule(lambda old, new: 0.5 * old + 0.5 * new)
    return _explained(model, variables, subject, rule, _seen(model, variables, subject))


def relevance(model: Any, variables: Variables, subject: Subject) -> Float[Array, "B S"]:
    """Rollout in which each head counts by the positive part of attention times its gradient
    (arXiv:2103.15679, eq. 5-11), added to what was there before.

    NothingSeen as in `attended`. All zeros for recurrent decoders, whose weights have no gradient
    here.
    """
    names: list[watch.Watched] = []

    def score(added: watch.Added) -> tuple[Array, Any]:
        call = lambda given, mutable: scores(model, given, subject, mutable)
        each, watched = watch.attention(call, variables, added)
        names[:] = [watched._replace(values=dict.fromkeys(watched.values))]
        return jnp.sum(each), watched.values

    shapes = jax.eval_shape(lambda: score({})[1])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    slopes, found = jax.grad(score, has_aux=True)(zeros)
    product = {key: jax.nn.relu(found[key] * slopes[key]) for key in names[0].values}
    seen = list(watch.in_order(names[0]._replace(values=product)))
    rule = Rule(lambda old, new: old + new)
    return _explained(model, variables, subject, rule, seen)


def _seen(model: Any, variables: Variables, subject: Subject) -> list[watch.Seen]:
    call = lambda given, mutable: scores(model, given, subject, mutable)
    _, watched = watch.attention(call, variables, heads=False)
    return list(watch.in_order(watched))


def _explained(
    model: Any, variables: Variables, subject: Subject, rule: Rule, seen: Sequence[watch.Seen]
) -> Float[Array, "B S"]:
    """The shares of what decides."""
    if not seen:
        raise NothingSeen(NOTHING)
    streams = _begin(model, variables, subject, seen)
    for one in seen:
        part = one.path.split("/")[0]
        if part != "connector":
            _leave_connector(streams)
        if part in STEPS:
            STEPS[part](streams, rule, one)
    _leave_connector(streams)
    return _decided(model, subject, streams)


def _begin(
    model: Any, variables: Variables, subject: Subject, seen: Sequence[watch.Seen]
) -> Streams:
    """Image tokens that come from themselves, and texts that come from no image token yet."""
    states = jax.eval_shape(partial(model.apply, method=_states), variables, subject.image)
    before, after = (state.shape[1] for state in states)
    connected = any(one.path.startswith("connector/") for one in seen)
    batch, count = len(subject.image), before if connected else after
    shares = jnp.broadcast_to(jnp.eye(count), (batch, count, count))
    image = Stream(shares, jnp.ones((batch, count), bool))
    streams = {"image": image}
    for name in ("text", "tokens"):
        if name in subject.inputs:
            streams[name] = _empty(batch, subject.inputs[name].shape[1], image)
    if getattr(model.decoder, "memory", None) == "insert" and "tokens" in streams:
        where = subject.inputs["tokens"] == model.decoder.image_token
        ranks = jnp.cumsum(where, axis=1) - 1
        streams["tokens"] = Stream(jax.nn.one_hot(ranks, count) * where[..., None], where)
    return streams


def _states(model: Any, image: Array) -> tuple[Array, Array]:
    """Image tokens of the vision encoder, and of the connector after it."""
    return model.vision(image).tokens, model.encode_image(image).tokens


def _decided(model: Any, subject: Subject, streams: Streams) -> Float[Array, "B S"]:
    """The shares of the tokens from which the score is computed."""
    if subject.ask == "generate":
        weights = subject.pick / jnp.maximum(jnp.sum(subject.pick, axis=1, keepdims=True), 1.0)
        return jnp.einsum("BT,BTS->BS", weights, streams["tokens"].shares)
    image = streams["image"]
    alone = subject.ask == "contrast" or isinstance(model.fusion, ConcatFusion)
    if alone or "text" not in streams:
        if "pooled" in streams:
            return streams["pooled"].shares[:, 0]
        first = ~image.image[:, 0]  # a class token
        return jnp.where(first[:, None], image.shares[:, 0], jnp.mean(image.shares, axis=1))
    mask = subject.inputs["text_mask"]
    pooling = getattr(model.text if model.fusion is None else model.fusion, "pooling", "mean")
    if pooling == "class":
        return image.shares[:, 0]
    count = jnp.sum(mask, axis=1)
    places = {"first": jnp.argmax(mask, axis=1), "before_last": jnp.maximum(count - 2, 0)}
    places |= dict.fromkeys(("last", "eos", "first_eos", "end"), jnp.maximum(count - 1, 0))
    weights = mask / jnp.maximum(count, 1)[:, None]
    if pooling in places:
        weights = jax.nn.one_hot(places[pooling], mask.shape[1])
    return jnp.einsum("BT,BTS->BS", weights, streams["text"].shares)


# --- what one attention does to the streams, by the part of the model that it is in ---------------
def _in_vision(streams: Streams, rule: Rule, seen: watch.Seen) -> None:
    """Patches, perhaps behind a class token, attend to each other, or something pools them."""
    image = _fitted(streams["image"], seen.value.shape[3])
    if image is None:
        return  # in merged or windowed maps each token is taken to stay where it is
    if seen.cross:
        streams["pooled"] = _looked(rule, _own(seen, image), seen, image)
    elif seen.value.shape[2] == seen.value.shape[3]:
        streams["image"] = _looked(rule, image, seen, image)


def _in_connector(streams: Streams, rule: Rule, seen: watch.Seen) -> None:
    """Learned queries attend to the image, perhaps also to each other."""
    queries, keys = seen.value.shape[2:]
    own = streams.get("queries") or _own(seen, streams["image"])
    looked = own
    if seen.cross:
        looked = _fitted(streams["image"], keys)
        if looked is None:  # they also read themselves, behind the image
            looked = _joined(_need(_fitted(streams["image"], keys - queries), seen), own)
    streams["queries"] = _looked(rule, own, seen, looked)


def _leave_connector(streams: Streams) -> None:
    """What the queries have become is what comes after takes for the image."""
    if "queries" in streams:
        shares = streams.pop("queries").shares
        streams["image"] = Stream(shares, jnp.ones(shares.shape[:2], bool))


def _in_text(streams: Streams, rule: Rule, seen: watch.Seen) -> None:
    """Words attend to each other or to the image."""
    own = _need(_fitted(streams["text"], seen.value.shape[2]), seen)
    image = streams["image"]
    keys = _need(_fitted(image, seen.value.shape[3]), seen) if seen.cross else own
    streams["text"] = _looked(rule, own, seen, keys)


def _in_fusion(streams: Streams, rule: Rule, seen: watch.Seen) -> None:
    """Words attend to the image, or both to each other, or all to all."""
    names = seen.path.split("/")
    image, text = streams["image"], streams["text"]
    if "visual" in names or "textual" in names or "cross" in names:
        visual = "visual" in names or ("cross" in names and seen.number == 0)
        if visual and not ("visual" in names and seen.cross):
            streams["before"] = image  # the words look at what the image was before this layer
        own, other = (image, text) if visual else (text, streams["before"])
        name = "image" if visual else "text"
        streams[name] = _looked(rule, own, seen, other if seen.cross else own)
    elif seen.cross:
        image = _need(_fitted(image, seen.value.shape[3]), seen)
        streams["text"] = _looked(rule, text, seen, image)
    else:
        length = text.shares.shape[1]
        image = _need(_fitted(image, seen.value.shape[2] - length), seen)
        both = _joined(image, text)
        both = _looked(rule, both, seen, both)
        streams["image"], streams["text"] = _cut(both, length)


def _in_decoder(streams: Streams, rule: Rule, seen: watch.Seen) -> None:
    """What is written attends to itself, or to the memory, or reads both as one sequence."""
    queries, keys = seen.value.shape[2:]
    if "tokens" not in streams:
        return _in_text(streams, rule, seen)  # the decoder is the text encoder, too
    tokens = streams["tokens"]
    length = tokens.shares.shape[1]
    if seen.cross:
        streams["tokens"] = _looked(rule, tokens, seen, _memory(streams, keys, seen))
    elif queries == length:
        streams["tokens"] = _looked(rule, tokens, seen, tokens)
    else:
        memory = streams.get("memory") or _memory(streams, queries - length, seen)
        both = _joined(memory, tokens)
        streams["memory"], streams["tokens"] = _cut(_looked(rule, both, seen, both), length)
    return None


STEPS = {
    "vision": _in_vision,
    "connector": _in_connector,
    "text": _in_text,
    "fusion": _in_fusion,
    "decoder": _in_decoder,
}


def _memory(streams: Streams, length: int, seen: watch.Seen) -> Stream:
    """What the decoder reads: the fused text, image and fused text, or the image."""
    text = streams.get("text")
    if text is None:
        return _need(_fitted(streams["image"], length), seen)
    own = text.shares.shape[1]
    if own == length:
        return text
    return _joined(_need(_fitted(streams["image"], length - own), seen), text)


def _looked(rule: Rule, own: Stream, seen: watch.Seen, keys: Stream) -> Stream:
    """`own` after its tokens have looked at `keys`."""
    weights = jnp.mean(seen.value.astype(jnp.float32), axis=1)  # [B, T, S]
    if rule.direct and not seen.cross:
        weights = weights * keys.image[:, None]
    shares = rule.mix(own.shares, weights @ keys.shares)
    if rule.direct:
        shares = jnp.where(own.image[..., None], own.shares, shares)
    return Stream(shares, own.image)


def _own(seen: watch.Seen, like: Stream) -> Stream:
    """The queries of an attention, which come from nothing yet."""
    return _empty(len(seen.value), seen.value.shape[2], like)


def _empty(batch: int, length: int, like: Stream) -> Stream:
    shares = jnp.zeros((batch, length, like.shares.shape[-1]))
    return Stream(shares, jnp.zeros((batch, length), bool))


def _joined(first: Stream, second: Stream) -> Stream:
    return Stream(*(jnp.concatenate(pair, axis=1) for pair in zip(first, second, strict=True)))


def _cut(both: Stream, length: int) -> tuple[Stream, Stream]:
    """What `_joined` joined, the second `length` tokens long."""
    return Stream(*(x[:, :-length] for x in both)), Stream(*(x[:, -length:] for x in both))


def _fitted(stream: Stream, length: int) -> Stream | None:
    """The stream with a class token more or less in front, if that gives it this length."""
    more = length - stream.shares.shape[1]
    if more == 1:
        return _joined(_empty(len(stream.shares), 1, stream), stream)
    return stream if more == 0 else Stream(*(x[:, 1:] for x in stream)) if more == -1 else None


def _need(stream: Stream | None, seen: watch.Seen) -> Stream:
    if stream is None:
        raise NothingSeen(
            f"{seen.path} attends to {seen.value.shape[3]} tokens, and it is not known which: use "
            "a method by gradients, such as grad_cam"
        )
    return stream
