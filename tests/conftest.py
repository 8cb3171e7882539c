"""What every test runs under: 8 fake CPU devices, strict shapes, a cache of compiled programs.

Set before JAX is imported, and in the environment, so that a `launch.py` started by a test has the
same. VLM_JAX_CACHE moves the cache, which makes the second run of the suite several times faster.
"""

import gc
import os
import signal
from importlib.metadata import version
from pathlib import Path

# A shell's background job ignores Ctrl-C, and tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = Path(os.environ.get("VLM_JAX_CACHE", Path.home() / ".cache" / "vlm_jax")) / "xla"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = "--xla_force_host_platform_device_count=8"
if version("jaxlib").startswith(("0.10.", "0.11.", "0.12.")):  # others may refuse to know it
    # A sixth less time to compile, and no slower where it was measured; programs a test starts by
    # themselves have the emitters that everybody has.
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Tests compile many tiny programs and run each a few times: compiling is what takes their time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: more threads would only wait
    for library in ("OMP", "OPENBLAS", "MKL", "RAYON"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# Tracing makes many small objects that live on, beside the hundreds of thousands of torch and
# transformers: walking through all of them as often as by default takes a tenth of the suite.
gc.set_threshold(100_000, 20, 50)

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402  (imports JAX)

MAPPINGS = 25_000
"""Of memory, beyond which a worker forgets its compiled programs."""

SHAPE_CHECKED = (
    "decode",
    "decoders",
    "encoders",
    "fusion",
    "layers",
    "losses",
    "models",
    "sharding",
    "tasks",
    "types",
)
"""The modules of vlm_jax whose annotations are checked against every call's arrays."""

install_import_hook([f"vlm_jax.{name}" for name in SHAPE_CHECKED], "beartype.beartype")


@pytest.fixture(autouse=True)
def few_programs():
    """Every compiled program keeps some mappings of memory; a process may have 65,530, and dies of
    more.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()
        gc.collect()
