"""A closed list of texts as arrays: which tokens may follow, looked up inside a compiled loop.

The list is a tree of tokens whose root is node 0 and whose every path is one text and its end token
(the constrained decoding of GENRE, arXiv:2010.00904, section 3.2). The edges of a node stand side
by side, so looking up a node reads as many edges as the widest node has, however large the
vocabulary is.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trie:
    """The tree of texts, as `make_trie` compiles it.

    first, count: i32[nodes], the edges of a node. token, child: i32[edges], which token an edge
    reads and the node it leads to. width: of the widest node, rounded up.
    """

    first: Int[Array, " nodes"]
    count: Int[Array, " nodes"]
    token: Int[Array, " edges"]
    child: Int[Array, " edges"]
    width: int = dataclasses.field(metadata={"static": True})

    def allowed(self, node: Int[Array, "*B"], vocab: int) -> Bool[Array, "*B V"]:
        """Which of `vocab` tokens may follow at each node."""
        tokens, _, real = self._edges(node)
        flat = jnp.where(real, tokens, vocab).reshape(-1, self.width)
        rows = jnp.arange(len(flat))[:, None]
        mask = jnp.zeros((len(flat), vocab), bool).at[rows, flat].set(True, mode="drop")
        return mask.reshape(*node.shape, vocab)

    def follow(self, node: Int[Array, "*B"], token: Int[Array, "*B"]) -> Int[Array, "*B"]:
        """The node that a token leads to; a token that may not follow leads to the root."""
        tokens, children, real = self._edges(node)
        return jnp.max(jnp.where(real & (tokens == token[..., None]), children, 0), axis=-1)

    def _edges(self, node: Array) -> tuple[Array, Array, Array]:
        """Tokens and children of each node's edges, [*B, width], and which of them exist."""
        offset = jnp.broadcast_to(jnp.arange(self.width), (*node.shape, self.width))
        where = self.first[node][..., None] + offset
        return self.token[where], self.child[where], offset < self.count[node][..., None]


def make_trie(
    texts: Iterable[Sequence[int]],
    *,
    eos: Sequence[int],
    max_length: int,
    min_length: int = 0,
    banned: Sequence[int] = (),
) -> Trie:
    """The texts, given as token ids without an end token, compiled into arrays; repeats count once.

    The other arguments are those of the `Search` it will serve. A text ends with the first of
    `eos`. Array sizes are rounded up to powers of two, so that lists of similar size share a
    program. ValueError, naming the text, for one that the search could never write in full.
    """
    texts = [tuple(int(token) for token in text) for text in texts]
    if not texts or not eos:
        raise ValueError("a trie needs at least one text, and an end token to finish it")
    for number, text in enumerate(texts):
        _check(text, number, eos, max_length, min_length, banned)
    children: list[dict[int, int]] = [{}]
    for text in texts:
        node = 0
        for token in (*text, eos[0]):
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
            node = children[node][token]
    return _compile(children)


def _check(
    text: tuple[int, ...],
    number: int,
    eos: Sequence[int],
    max_length: int,
    min_length: int,
    banned: Sequence[int],
) -> None:
    where = f"text {number} of the list has {len(text)} tokens"
    if len(text) + 1 > max_length:
        raise ValueError(
            f"{where} and an end token, more than max_length={max_length}: raise max_length or "
            "drop the text"
        )
    if len(text) < min_length:
        raise ValueError(f"{where}, fewer than min_length={min_length}: lower min_length")
    wrong = sorted(set(text) & set(eos))
    if wrong:
        raise ValueError(f"text {number} of the list contains the end token {wrong[0]}: remove it")
    wrong = sorted({*text, eos[0]} & set(banned))
    if wrong:
        raise ValueError(
            f"text {number} of the list needs token {wrong[0]}, which is banned: allow the token "
            "or drop the text"
        )


def _compile(children: list[dict[int, int]]) -> Trie:
    counts = np.array([len(edges) for edges in children])
    width = _power_of_two(int(counts.max()))
    nodes, edges = _power_of_two(len(children)), _power_of_two(len(children) - 1 + width)
    first, count = np.zeros((2, nodes), np.int32)
    count[: len(children)] = counts
    first[: len(children)] = np.cumsum(counts) - counts
    token, child = np.zeros((2, edges), np.int32)
    pairs = [pair for edges_of_node in children for pair in sorted(edges_of_node.items())]
    token[: len(pairs)], child[: len(pairs)] = np.array(pairs, np.int32).T
    first, count, token, child = (jnp.asarray(x) for x in (first, count, token, child))
    return Trie(first, count, token, child, width)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
