"""The layers of OpenFlamingo (arXiv:2308.01390) by its names: its resampler and its gated
cross-attention. The models around them are no folders that a config.json describes.
"""

from vlm_jax.weights.rules import BATCHED, TRANSPOSED, Rule, Rules, dense, norm, reshaped


def attention_rules(ours: str, theirs: str) -> Rules:
    """Cross-attention without biases, whose key and value are one tensor."""
    both = (f"{ours}/key/kernel", f"{ours}/value/kernel")
    return [
        *dense(f"{ours}/query", f"{theirs}.to_q", bias=False),
        Rule(both, f"{theirs}.to_kv.weight", TRANSPOSED),
        *dense(f"{ours}/out", f"{theirs}.to_out", bias=False),
    ]


def mlp_rules(ours: str, norms: str, theirs: str) -> Rules:
    """An MLP without biases, and the norm before it."""
    return [
        *norm(norms, f"{theirs}.0"),
        *dense(f"{ours}/up", f"{theirs}.1", bias=False),
        *dense(f"{ours}/down", f"{theirs}.3", bias=False),
    ]


def resampler_rules(ours: str = "connector", theirs: str = "perceiver") -> Rules:
    """`connectors.perceiver.PerceiverResampler`."""
    layer, each = f"{ours}/transformer/layers", f"{theirs}.layers.{{}}"
    return [
        Rule(f"{ours}/latents", f"{theirs}.latents", BATCHED),
        *norm(f"{layer}/context_norm", f"{each}.0.norm_media"),
        *norm(f"{layer}/cross_norm", f"{each}.0.norm_latents"),
        *attention_rules(f"{layer}/cross_attention", f"{each}.0"),
        *mlp_rules(f"{layer}/mlp", f"{layer}/mlp_norm", f"{each}.1"),
        *norm(f"{ours}/transformer/final_norm", f"{theirs}.norm"),
    ]


def gated_rules(ours: str, theirs: str) -> Rules:
    """The parts "cross" and "cross_mlp" of layers with cross_gate="scalar". theirs: with "{}"."""
    gate = reshaped((1, 1, 1), (1,))
    return [
        *norm(f"{ours}/cross_norm", f"{theirs}.attn.norm"),
        *attention_rules(f"{ours}/cross_attention", f"{theirs}.attn"),
        Rule(f"{ours}/cross_gate", f"{theirs}.attn_gate", gate),
        *mlp_rules(f"{ours}/cross_mlp", f"{ours}/cross_mlp_norm", f"{theirs}.ff"),
        Rule(f"{ours}/cross_mlp_gate", f"{theirs}.ff_gate", gate),
    ]
