"""The resampler against attention and norms applied by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.connectors.perceiver import PerceiverResampler
from vlm_jax.layers.attention import Attention
from vlm_jax.types import Features

VISUAL = Features(
    jax.random.normal(jax.random.key(0), (2, 5, 6)),
    jnp.arange(5)[None] < jnp.array([[5], [3]]),
)


def norm(x, p):
    x = np.asarray(x)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return jnp.asarray(x * p["scale"] + p["bias"])


def test_latents_attend_to_the_image_and_to_themselves():
    options = dict(attention=dict(head_dim=4), activation="relu")
    module = PerceiverResampler(latents=3, layers=1, heads=2, mlp_width=10, **options)
    shapes = jax.eval_shape(module.init, jax.random.key(1), VISUAL)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    found = jax.jit(module.apply)(variables, VISUAL)
    stack = variables["params"]["transformer"]
    layer = jax.tree.map(lambda leaf: leaf[0], stack["layers"])
    x = jnp.broadcast_to(variables["params"]["latents"], (2, 3, 6))
    own = norm(x, layer["cross_norm"])
    read = jnp.concatenate([norm(VISUAL.tokens, layer["context_norm"]), own], axis=1)
    mask = jnp.pad(VISUAL.mask, ((0, 0), (0, 3)), constant_values=True)[:, None, None]
    attend = Attention(2, head_dim=4, bias=False, out_bias=False)
    x = x + attend.apply({"params": layer["cross_attention"]}, own, read, mask=mask)[0]
    hidden = jax.nn.relu(norm(x, layer["mlp_norm"]) @ layer["mlp"]["up"]["kernel"])
    x = x + hidden @ layer["mlp"]["down"]["kernel"]
    np.testing.assert_allclose(found.tokens, norm(x, stack["final_norm"]), atol=1e-4)
    assert found.mask.all()
