"""Machines without a TPU are quiet about it, those with one keep it."""

import importlib.util
import os
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from vlm_jax import libtpu


def test_what_the_user_says_about_tpus_stands():
    environ = {"TPU_WORKER_HOSTNAMES": "a,b"}
    libtpu.quiet_libtpu(environ)
    assert environ["TPU_WORKER_HOSTNAMES"] == "a,b" and environ["TPU_SKIP_MDS_QUERY"] == "1"
    libtpu.quiet_libtpu(environ, "v5litepod-64")
    libtpu.quiet_libtpu(environ, "v4-8")
    assert environ["TPU_ACCELERATOR_TYPE"] == "v5litepod-64"


@pytest.mark.parametrize("device", [None, "/dev/vfio/vfio", "/dev/accel0", "/dev/vfio/0"])
def test_tpus_are_known_by_their_device_files(monkeypatch, device):
    there = lambda pattern: [device] if device and fnmatch(device, pattern) else []
    monkeypatch.setattr(libtpu.glob, "glob", there)
    assert libtpu.has_tpu() == (device in ("/dev/accel0", "/dev/vfio/0"))


@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu") or libtpu.has_tpu(), reason="needs libtpu, and no TPU"
)
def test_importing_the_package_keeps_libtpu_quiet():
    unset = ("TPU_", "JAX_PLATFORMS")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
    command = [sys.executable, "-c", "import vlm_jax, jax; jax.devices()"]
    said = subprocess.run(
        command, env=environ | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
