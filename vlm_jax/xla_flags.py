"""What the compiler must be told in the environment, before JAX makes its first backend."""

FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"


def with_safe_fusions(flags: str, jaxlib: str) -> str:
    """XLA_FLAGS with which programs on a CPU compute what they say, for a version of jaxlib.

    From 0.10.2 on, jaxlib hands groups of products and sums to a library, YNNPACK, and some groups
    come back wrong (jax-ml/jax#39103, mended in 0.12) or as whatever the memory held (not mended in
    0.12.0.1), without an error. Nothing is left to it: single products and convolutions are right,
    but training and decoding were no slower without it. A choice that the flags make already
    stands. Versions that are not known to have the flag would refuse it.
    """
    affected = jaxlib.startswith(("0.10.2", "0.11.", "0.12."))
    if not affected or FUSIONS in flags:
        return flags
    return f"{flags} {FUSIONS}=".strip()
