"""Best of n: several texts about an image, the one that a dual encoder finds closest first."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm_jax.decode.sampling import best_first
from vlm_jax.decode.search import Generated


def rerank(
    found: Generated, similarity: Float[Array, "B K"], *, weight: float = 1.0
) -> tuple[Generated, Float[Array, "B K"]]:
    """The K texts of each row in the order of a ranking, best first, and the ranking.

    similarity: of each text to its image, such as the cosine in [-1, 1] of a dual encoder; DALL-E
    chooses by it alone (arXiv:2102.12092, section 2.6). weight: in [0, 1], the ranking is
    weight * similarity + (1 - weight) * score.
    Places that nothing filled stay last. ValueError for another weight.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight={weight} is not in [0, 1]")
    empty = jnp.isneginf(found.scores)
    ranking = weight * similarity + (1.0 - weight) * jnp.where(empty, 0.0, found.scores)
    ranking = jnp.where(empty, -jnp.inf, ranking)
    order = -jnp.sort(-ranking, axis=1)
    return best_first(found, ranking), order
