"""What libtpu, which plans need on any machine, must be told where there is no TPU."""

import glob
from collections.abc import MutableMapping

NO_TPU = "v5litepod-1"
"""The kind of TPU that libtpu is told of where there is none."""


def has_tpu() -> bool:
    """Whether this machine has TPU chips: nothing is asked but its device files."""
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def quiet_libtpu(environ: MutableMapping[str, str], accelerator: str = NO_TPU) -> None:
    """Keep libtpu from complaining that there is no TPU, and from asking a cloud what machine this
    is. A TPU that is there would not be found.

    accelerator: of a plan, such as "v5litepod-64". What the environment already says stands.
    """
    if environ.get("TPU_ACCELERATOR_TYPE", NO_TPU) == NO_TPU:
        environ["TPU_ACCELERATOR_TYPE"] = accelerator
    environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
