"""How image and text meet: `(visual: Features, textual: Features, *, train) -> Features`.

The last T tokens of the result are the text's T tokens, informed by the image; what stands before
them is visual. `pooled` is always set.
"""

from vlm_jax.connectors.qformer import QFormer
from vlm_jax.fusion.attention import AttentionFusion
from vlm_jax.fusion.coattention import CoAttentionFusion
from vlm_jax.fusion.concat import ConcatFusion
from vlm_jax.fusion.cross_modal import CrossModalFusion

FUSIONS = {
    "concat": ConcatFusion,
    "attention": AttentionFusion,
    "coattention": CoAttentionFusion,
    "cross_modal": CrossModalFusion,
    "qformer": QFormer,
}
