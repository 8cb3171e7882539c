"""Where data lie that were fetched or computed once."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of all of them: $VLM_JAX_DATA, or ~/.cache/vlm_jax."""
    return Path(os.environ.get("VLM_JAX_DATA") or "~/.cache/vlm_jax").expanduser()
