"""Cross-modal retrieval: recall at K, median and mean rank, mAP@R, with any number of right answers
per query.

The rank of a query is the place, from 1, of its best right answer among all wrong ones (other right
answers do not push it down), as in the five-caption protocol of COCO and Flickr30k
(arXiv:1412.2306, section 4.1). mAP@R (arXiv:2003.08505, section 3.2; for captions arXiv:2204.03359)
looks at the first R places, R being the number of right answers of the query, and averages the
precision at the places that hold one, over R. No official scorer.

Ties count against the model: a wrong item that scores the same as a right one is placed before it.
Collapsed, constant embeddings thus get the worst possible rank and not a perfect one.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vlm_jax.metrics.bootstrap import Measure, Score, Weights, mean_of, score

CUTOFFS = (1, 5, 10)
# Of the largest possible product: what summation order alone may do to equal float64 scores.
TIE_TOLERANCE = 1e-12
CHUNK, GALLERY_CHUNK = 512, 8192
_FEW = 8  # so many right answers are looked up one by one; more, after sorting the scores


class Judged(NamedTuple):
    """A second stage. items: the first k of the gallery for each query, by place; all other items
    stay behind them. scores: by which they are put in order, the highest first.
    """

    items: Int[np.ndarray, "n k"]
    scores: Float[np.ndarray, "n k"]

    def first(self, query: int) -> Int[np.ndarray, " k"]:
        """The items of one query in their new order."""
        return self.items[query][np.argsort(-self.scores[query], kind="stable")]


class RetrievalResult(NamedTuple):
    """Per query: rank, from 1, of its best right answer, and average precision at R in [0, 1]."""

    ranks: Int[np.ndarray, " n"]
    average_precision: Float[np.ndarray, " n"]


def positives_of_groups(query_groups: Sequence, gallery_groups: Sequence) -> list[list[int]]:
    """For each query the gallery indices with the same group id, for example the image id of each
    caption.
    """
    members: dict = {}
    for index, group in enumerate(gallery_groups):
        members.setdefault(group, []).append(index)
    return [members.get(group, []) for group in query_groups]


def transposed_positives(
    positives: Sequence[Collection[int]], gallery_size: int
) -> list[list[int]]:
    """The same pairs seen from the gallery: for each gallery index the queries it answers."""
    queries: list[list[int]] = [[] for _ in range(gallery_size)]
    for query, indices in enumerate(positives):
        for index in indices:
            queries[index].append(query)
    return queries


def retrieval_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence[Collection[int]],
    chunk: int = CHUNK,
) -> Int[np.ndarray, " n"]:
    """The ranks of `retrieve`, whose arguments and errors these are."""
    return retrieve(queries, gallery, positives, chunk).ranks


def retrieve(
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence[Collection[int]],
    chunk: int = CHUNK,
    gallery_chunk: int = GALLERY_CHUNK,
    second: Judged | None = None,
) -> RetrievalResult:
    """Rank and average precision of each query, by `products` (normalise first for cosine).

    queries: [n, E]; gallery: [m, E]; one of them may be [n, Q, E]. positives: for each query the
    indices of its right answers. second: another order of the first few. chunk, gallery_chunk:
    scores computed at once; beside the embeddings memory is a few times chunk * gallery_chunk
    floats, whatever n and m. Raises ValueError for shapes that do not fit, non-finite embeddings,
    and queries without a right answer.
    """
    queries, gallery = np.asarray(queries), np.asarray(gallery)
    _check(queries, gallery, positives)
    longest = max(float(_norms(part).max()) for part in _parts(gallery, gallery_chunk))
    found = []
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk].astype(np.float64)
        slack = TIE_TOLERANCE * _norms(rows) * longest
        right = [np.unique(list(indices)) for indices in positives[start : start + chunk]]
        own = None if second is None else Judged(*(x[start : start + chunk] for x in second))
        found.append(_retrieve_chunk(rows, gallery, right, slack, gallery_chunk, own))
    return RetrievalResult(*map(np.concatenate, zip(*found, strict=True)))


def _retrieve_chunk(
    rows: np.ndarray,
    gallery: np.ndarray,
    right: list[np.ndarray],
    slack: np.ndarray,
    gallery_chunk: int,
    second: Judged | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and average precisions of a few queries: how many wrong items beat each right one is
    counted part by part of the gallery.
    """
    sizes = np.array([len(indices) for indices in right])
    row, item = np.repeat(np.arange(len(rows)), sizes), np.concatenate(right)
    place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    own = np.full((len(rows), sizes.max()), -np.inf)  # [chunk, P], right scores, best first
    for start in range(0, len(row), gallery_chunk):
        part = slice(start, start + gallery_chunk)
        each = np.einsum("p...e,p...e->p...", *_aligned(rows[row[part]], gallery[item[part]]))
        own[row[part], place[part]] = each.reshape(len(each), -1).max(axis=1)
    best = np.argsort(-own, axis=1, kind="stable")
    own = np.take_along_axis(own, best, axis=1)
    threshold = np.where(own > -np.inf, own - slack[:, None], np.inf)
    wrong = np.zeros(own.shape, np.int64)  # items that beat each right one
    for start in range(0, len(gallery), gallery_chunk):
        scores = products(rows, gallery[start : start + gallery_chunk].astype(np.float64))
        here = (item >= start) & (item < start + gallery_chunk)
        scores[row[here], item[here] - start] = -np.inf
        wrong += _count_at_least(scores, threshold)
    if second is not None:
        wrong = _judged_anew(
            wrong,
            [items[order[: len(items)]] for items, order in zip(right, best, strict=True)],
            second,
        )
    number = np.arange(1, own.shape[1] + 1)  # of the right answer, from the best
    rank = number + wrong
    gained = np.where((rank <= sizes[:, None]) & (own > -np.inf), number / rank, 0.0)
    return 1 + wrong[:, 0], gained.sum(axis=1) / sizes


def _judged_anew(
    wrong: np.ndarray, right: list[np.ndarray], second: Judged
) -> Int[np.ndarray, "chunk P"]:
    """How many wrong items beat each right one, the best first, after a second stage.

    wrong: how many did before, of the items `right`.
    """
    found = np.full(wrong.shape, np.iinfo(np.int64).max)
    for row, items in enumerate(right):
        candidates, scores = second.items[row], second.scores[row]
        bad = scores[~np.isin(candidates, items)]
        known = dict(zip(candidates.tolist(), scores.tolist(), strict=True))
        counts = [
            np.count_nonzero(bad >= known[item]) if item in known else max(count, len(bad))
            for item, count in zip(items.tolist(), wrong[row].tolist(), strict=False)
        ]
        found[row, : len(items)] = np.sort(counts)
    return found


def products(
    queries: Float[np.ndarray, "n *P E"], gallery: Float[np.ndarray, "m *Q E"]
) -> Float[np.ndarray, "n m"]:
    """Of each query with each item; the best, where an item or a query has several vectors
    (BLIP-2, arXiv:2301.12597, section 3.1).
    """
    if queries.ndim == 2 and gallery.ndim == 2:
        return queries @ gallery.T
    ours, theirs = (x.reshape(len(x), -1, x.shape[-1]).swapaxes(0, 1) for x in (queries, gallery))
    return reduce(np.maximum, (query @ item.T for query in ours for item in theirs))


def first_candidates(
    queries: np.ndarray, gallery: np.ndarray, k: int, chunk: int = CHUNK
) -> Judged:
    """The k items of the highest `products` with each query, best first, or all if there are no
    more; for a second stage to score anew.
    """
    found = []
    for rows in _parts(queries, chunk):
        scores = products(rows, gallery)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found.append((order, np.take_along_axis(scores, order, axis=1)))
    return Judged(*map(np.concatenate, zip(*found, strict=True)))


def _aligned(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [p, E] and [p, Q, E] as such that can be multiplied, float64."""
    other = other.astype(np.float64)
    if one.ndim == other.ndim:
        return one, other
    return (one[:, None], other) if one.ndim < other.ndim else (one, other[:, None])


def _count_at_least(scores: np.ndarray, threshold: np.ndarray) -> Int[np.ndarray, "chunk P"]:
    """How many scores [chunk, part] of each row reach each of its thresholds [chunk, P]."""
    if threshold.shape[1] <= _FEW:
        columns = [np.count_nonzero(scores >= column[:, None], axis=1) for column in threshold.T]
        return np.stack(columns, axis=1)
    scores.sort(axis=1)
    below = [np.searchsorted(*pair) for pair in zip(scores, threshold, strict=True)]
    return scores.shape[1] - np.stack(below)


def _parts(vectors: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    return (vectors[start : start + chunk] for start in range(0, len(vectors), chunk))


def _norms(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    return norms.reshape(len(norms), -1).max(axis=1)


def _check(queries: np.ndarray, gallery: np.ndarray, positives: Sequence[Collection[int]]) -> None:
    shapes = f"embeddings must be [n, E] and [m, E], got {queries.shape} and {gallery.shape}"
    fine = {queries.ndim, gallery.ndim} in ({2}, {2, 3})
    if not fine or queries.shape[-1] != gallery.shape[-1]:
        raise ValueError(shapes)
    if not queries.size or not gallery.size:
        raise ValueError(shapes)
    if len(positives) != len(queries):
        raise ValueError(f"{len(queries)} queries but {len(positives)} lists of right answers")
    for vectors in (queries, gallery):
        if not all(np.isfinite(part).all() for part in _parts(vectors, GALLERY_CHUNK)):
            raise ValueError("embeddings hold NaN or infinity")
    for query, indices in enumerate(positives):
        if not len(indices):
            raise ValueError(f"query {query} has no right answer in the gallery")
        if min(indices) < 0 or max(indices) >= len(gallery):
            raise ValueError(
                f"query {query}: right answers {list(indices)} outside a gallery of {len(gallery)}"
            )


def rank_metrics(ranks: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Recalls "R@1", "R@5", "R@10" in [0, 1], "median_rank" and "mean_rank" from 1."""
    recalls = {f"R@{k}": float(np.mean(ranks <= k)) for k in CUTOFFS}
    return {**recalls, "median_rank": float(np.median(ranks)), "mean_rank": float(np.mean(ranks))}


def rank_measures(result: RetrievalResult) -> list[Measure]:
    """`rank_metrics` and "mAP@R" in [0, 1], to be given intervals."""
    ranks = np.asarray(result.ranks)
    recalls = [mean_of(f"R@{k}", ranks <= k) for k in CUTOFFS]
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order]

    def median(weights: Weights) -> np.ndarray:
        reached = np.cumsum(np.ones(len(ranks)) if weights is None else weights[order])
        middle = np.searchsorted(reached, [np.floor((reached[-1] + 1) / 2), reached[-1] // 2 + 1])
        return np.array([ordered[middle].mean()])

    return [
        *recalls,
        Measure(("median_rank",), len(ranks), median),
        mean_of("mean_rank", ranks),
        mean_of("mAP@R", result.average_precision),
    ]


def _both(
    images,
    texts,
    positives,
    chunk: int,
    kinds: tuple[str, str] = ("image", "text"),
    judged: tuple[Judged | None, Judged | None] = (None, None),
) -> dict[str, list[Measure]]:
    """Measures by direction."""
    backward = transposed_positives(positives, len(texts))
    first, second = kinds
    ways = {
        f"{first}_to_{second}": retrieve(images, texts, positives, chunk, second=judged[0]),
        f"{second}_to_{first}": retrieve(texts, images, backward, chunk, second=judged[1]),
    }
    return {way: rank_measures(result) for way, result in ways.items()}


def retrieval_scores(
    images: np.ndarray,
    texts: np.ndarray,
    positives: Sequence[Collection[int]],
    chunk: int = CHUNK,
    kinds: tuple[str, str] = ("image", "text"),
    judged: tuple[Judged | None, Judged | None] = (None, None),
) -> dict[str, Score]:
    """`retrieval_metrics` with n (images or texts, by direction) and intervals over the queries.

    The gallery is the same in every resample. kinds: what the two sides are called. judged: the
    second stages of both directions.
    """
    found = _both(images, texts, positives, chunk, kinds, judged)
    return {
        f"{direction}/{name}": one
        for direction, measures in found.items()
        for name, one in score(measures).items()
    }


def retrieval_metrics(
    images: np.ndarray,
    texts: np.ndarray,
    positives: Sequence[Collection[int]],
    chunk: int = CHUNK,
) -> dict[str, float]:
    """R@1, R@5, R@10, median_rank, mean_rank and mAP@R in both directions, under
    "image_to_text/..." and "text_to_image/...".

    images: [n, E]; texts: [m, E]. positives: for each image the indices of its texts. Raises
    ValueError as `retrieve` does, in either direction.
    """
    return {
        f"{direction}/{measure.names[0]}": float(measure.value(None)[0])
        for direction, measures in _both(images, texts, positives, chunk).items()
        for measure in measures
    }
