"""What a layer keeps for its backward pass, and what it computes again (rematerialisation)."""

from typing import Any

import flax.linen as nn
import jax

POLICIES = {
    "nothing": None,
    "sliced": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_without_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "everything": jax.checkpoint_policies.everything_saveable,
}
"""What is kept: nothing but the layer's input; nothing, and MLPs compute about as many hidden units
at a time as the input is wide, so that wide ones need less memory; the results of all matrix
products; of those with weights alone, not of attention's; everything.
"""


def remat(layer: Any, kept: bool | str) -> Any:
    """A scanned layer (module, x, layers, around, train) that recomputes what it does not keep.

    kept: False for everything, True for nothing, or a key of POLICIES; KeyError for another.
    """
    if kept is False:
        return layer
    policy = POLICIES["nothing" if kept is True else kept]
    return nn.remat(layer, prevent_cse=False, static_argnums=(4,), policy=policy)
