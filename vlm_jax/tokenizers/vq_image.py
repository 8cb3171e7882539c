"""Image tokens on the host: how well a codebook is used."""

import numpy as np


def codebook_use(ids: np.ndarray, codes: int) -> tuple[float, float]:
    """The share of the codes that occur among the ids, in [0, 1], and their perplexity, in
    [1, codes]: how many codes would be as hard to guess if all were used alike.
    """
    counts = np.bincount(np.asarray(ids).reshape(-1), minlength=codes)
    shares = counts[counts > 0] / counts.sum()
    return float(np.mean(counts > 0)), float(np.exp(-np.sum(shares * np.log(shares))))
