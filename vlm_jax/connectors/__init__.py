"""Between a vision encoder and whatever reads its Features: `(visual, *, train) -> Features`."""

from vlm_jax.connectors.attentional_pooler import AttentionalPooler
from vlm_jax.connectors.merge import MergeConnector
from vlm_jax.connectors.mlp import MlpConnector
from vlm_jax.connectors.perceiver import PerceiverResampler
from vlm_jax.connectors.pool import PoolConnector
from vlm_jax.connectors.qformer import QFormer

CONNECTORS = {
    "attentional_pooler": AttentionalPooler,
    "merge": MergeConnector,
    "mlp": MlpConnector,
    "perceiver": PerceiverResampler,
    "pool": PoolConnector,
    "qformer": QFormer,
}
