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
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vlm_jax.metrics.bootstrap import Measure, Score, Weights, mean_of, score

CUTOFFS = (1, 5, 10)
# Of the largest possible product: what summation order alone may do to equal float64 scores.
TIE_TOLERANCE = 1e-12
CHUNK, GALLERY_CHUNK = 512, 8192
_FEW = 8  # so many right answers are looked up one by one; more, after sorting the scores


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
) -> RetrievalResult:
    """Rank and average precision of each query, by dot product (normalise first for cosine).

    queries: [n, E]; gallery: [m, E]. positives: for each query the indices of its right answers.
    chunk, gallery_chunk: scores computed at once; beside the embeddings memory is a few times chunk
    * gallery_chunk floats, whatever n and m. Raises ValueError for shapes that do not fit,
    non-finite embeddings, and queries without a right answer.
    """
    queries, gallery = np.asarray(queries), np.asarray(gallery)
    _check(queries, gallery, positives)
    longest = max(float(_norms(part).max()) for part in _parts(gallery, gallery_chunk))
    found = []
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk].astype(np.float64)
        slack = TIE_TOLERANCE * _norms(rows) * longest
        right = [np.unique(list(indices)) for indices in positives[start : start + chunk]]
        found.append(_retrieve_chunk(rows, gallery, right, slack, gallery_chunk))
    return RetrievalResult(*map(np.concatenate, zip(*found, strict=True)))


def _retrieve_chunk(
    rows: np.ndarray,
    gallery: np.ndarray,
    right: list[np.ndarray],
    slack: np.ndarray,
    gallery_chunk: int,
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
        products = np.einsum("pe,pe->p", rows[row[part]], gallery[item[part]].astype(np.float64))
        own[row[part], place[part]] = products
    own = -np.sort(-own, axis=1)
    threshold = np.where(own > -np.inf, own - slack[:, None], np.inf)
    wrong = np.zeros(own.shape, np.int64)  # items that beat each right one
    for start in range(0, len(gallery), gallery_chunk):
        scores = rows @ gallery[start : start + gallery_chunk].astype(np.float64).T
        here = (item >= start) & (item < start + gallery_chunk)
        scores[row[here], item[here] - start] = -np.inf
        wrong += _count_at_least(scores, threshold)
    number = np.arange(1, own.shape[1] + 1)  # of the right answer, from the best
    rank = number + wrong
    gained = np.where((rank <= sizes[:, None]) & (own > -np.inf), number / rank, 0.0)
    return 1 + wrong[:, 0], gained.sum(axis=1) / sizes


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
    return np.linalg.norm(vectors.astype(np.float64), axis=1)


def _check(queries: np.ndarray, gallery: np.ndarray, positives: Sequence[Collection[int]]) -> None:
    shapes = f"embeddings must be [n, E] and [m, E], got {queries.shape} and {gallery.shape}"
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
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
    images, texts, positives, chunk: int, kinds: tuple[str, str] = ("image", "text")
) -> dict[str, list[Measure]]:
    """Measures by direction."""
    backward = transposed_positives(positives, len(texts))
    first, second = kinds
    return {
        f"{first}_to_{second}": rank_measures(retrieve(images, texts, positives, chunk)),
        f"{second}_to_{first}": rank_measures(retrieve(texts, images, backward, chunk)),
    }


def retrieval_scores(
    images: np.ndarray,
    texts: np.ndarray,
    positives: Sequence[Collection[int]],
    chunk: int = CHUNK,
    kinds: tuple[str, str] = ("image", "text"),
) -> dict[str, Score]:
    """`retrieval_metrics` with n (images or texts, by direction) and intervals over the queries.

    The gallery is the same in every resample. kinds: what the two sides are called.
    """
    found = _both(images, texts, positives, chunk, kinds)
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
