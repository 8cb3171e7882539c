"""vlm_jax: vision-language models as configs over pure encoders, fusion and decoders."""

import time

STARTED = time.perf_counter()
"""When this package was first imported: the clock for "seconds until the first step"."""


def load(workdir, **options):
    """A trained run as an object with `caption`, `answer`, `embed_image`, `embed_text` and `rank`.

    See `vlm_jax.api.load`.
    """
    from vlm_jax import api  # late: `import vlm_jax` must not scan for accelerators

    return api.load(workdir, **options)
