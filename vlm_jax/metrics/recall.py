"""Cross-modal retrieval: recall at K, median and mean rank, with any number of right answers per
query.

The rank of a query is the place, from 1, of its best right answer among all wrong ones (other right
answers do not push it down), as in the five-caption protocol of COCO and Flickr30k
(arXiv:1412.2306, section 4.1). No official scorer.

Ties count against the model: a wrong item that scores the same as the best right one is placed
before it. Collapsed, constant embeddings thus get the worst possible rank and not a perfect one.
"""

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Int

CUTOFFS = (1, 5, 10)
# Of the largest possible product: what summation order alone may do to equal float64 scores.
TIE_TOLERANCE = 1e-12


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
    chunk: int = 512,
) -> Int[np.ndarray, " n"]:
    """Rank, from 1, of the best right answer of each query, by dot product (normalise first for
    cosine).

    queries: [n, E]; gallery: [m, E]. positives: for each query the indices of its right answers.
    chunk: queries scored at once; memory is chunk * m floats. Raises ValueError for shapes that do
    not fit, non-finite embeddings, and queries without a right answer.
    """
    queries, gallery = np.asarray(queries, np.float64), np.asarray(gallery, np.float64)
    _check(queries, gallery, positives)
    slack = TIE_TOLERANCE * np.linalg.norm(queries, axis=1) * np.linalg.norm(gallery, axis=1).max()
    ranks = []
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        scores = rows @ gallery.T  # [chunk, m]
        right = np.zeros(scores.shape, bool)
        for row, indices in enumerate(positives[start : start + chunk]):
            right[row, list(indices)] = True
        best = np.where(right, scores, -np.inf).max(axis=1) - slack[start : start + chunk]
        ranks.append(1 + np.count_nonzero(~right & (scores >= best[:, None]), axis=1))
    return np.concatenate(ranks)


def _check(queries: np.ndarray, gallery: np.ndarray, positives: Sequence[Collection[int]]) -> None:
    if (
        queries.ndim != 2
        or gallery.ndim != 2
        or queries.shape[1] != gallery.shape[1]
        or not queries.size
    ):
        raise ValueError(
            f"embeddings must be [n, E] and [m, E], got {queries.shape} and {gallery.shape}"
        )
    if len(positives) != len(queries):
        raise ValueError(f"{len(queries)} queries but {len(positives)} lists of right answers")
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
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


def retrieval_metrics(
    images: np.ndarray,
    texts: np.ndarray,
    positives: Sequence[Collection[int]],
    chunk: int = 512,
) -> dict[str, float]:
    """`rank_metrics` in both directions, under "image_to_text/..." and "text_to_image/...".

    images: [n, E]; texts: [m, E]. positives: for each image the indices of its texts. Raises
    ValueError as `retrieval_ranks` does, in either direction.
    """
    forward = rank_metrics(retrieval_ranks(images, texts, positives, chunk))
    backward = rank_metrics(
        retrieval_ranks(texts, images, transposed_positives(positives, len(texts)), chunk)
    )
    return {f"image_to_text/{name}": value for name, value in forward.items()} | {
        f"text_to_image/{name}": value for name, value in backward.items()
    }
