"""vlm_jax: vision-language models as configs over pure encoders, fusion and decoders."""

import os
import time
from importlib.metadata import version

from vlm_jax.libtpu import has_tpu, quiet_libtpu
from vlm_jax.xla_flags import with_safe_fusions

os.environ["XLA_FLAGS"] = with_safe_fusions(os.environ.get("XLA_FLAGS", ""), version("jaxlib"))
if not has_tpu():
    quiet_libtpu(os.environ)

STARTED = time.perf_counter()
"""When this package was first imported: the clock for "seconds until the first step"."""


def load(workdir, **options):
    """A trained run as an object with `caption`, `answer`, `embed_image`, `embed_text` and `rank`.

    See `vlm_jax.api.load`.
    """
    from vlm_jax import api  # late: `import vlm_jax` must not scan for accelerators

    return api.load(workdir, **options)


def load_pretrained(folder, **options):
    """A published checkpoint folder as such an object. See `vlm_jax.api.load_pretrained`."""
    from vlm_jax import api

    return api.load_pretrained(folder, **options)


def export(model, folder):
    """A model that began as such a folder, as a folder of the same format again.

    See `vlm_jax.api.export`.
    """
    from vlm_jax import api

    api.export(model, folder)
