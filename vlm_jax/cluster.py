"""Where this process stands among the processes of a run: told by flags, or found in what the
scheduler leaves in the environment.

    find()                                     alone, or one of many
    find("10.0.0.1:8482", 4, 2)                told

Found are TPU pod slices (Compute Engine and GKE, several slices too), Slurm, Open MPI, and
Kubernetes Indexed Jobs, JobSets of one job included. Reads nothing but the environment, the
metadata server of a TPU VM, and the API server of a Kubernetes cluster; touches no device.
"""

import json
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from vlm_jax.libtpu import has_tpu

PORT = 8482
"""Of process 0, where no scheduler gives a job number to derive one from."""

JOB_PORTS = 61440, 4096
"""First and number of the ports that job numbers are mapped to: above those that Linux hands out by
itself (60999 at most)."""

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"

Lookup = Callable[[str], str | None]


class Place(NamedTuple):
    """coordinator: "host:port" of process 0. processes: how many. process: which, from 0. device:
    the only local device to use, None for all of the host. found: where this is known from.
    """

    coordinator: str
    processes: int
    process: int
    device: int | None
    found: str


class World(NamedTuple):
    """What can be asked about the machine, replaceable in tests.

    has_tpu: whether there are TPU chips. metadata: attribute of a TPU VM, or None. hostname: full
    name of this host. job_size: number of processes of a Kubernetes Job by its name.
    """

    has_tpu: Callable[[], bool]
    metadata: Lookup
    hostname: Callable[[], str]
    job_size: Callable[[str], int]


def find(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environ: Mapping[str, str] = os.environ,
    world: World | None = None,
) -> Place | None:
    """The place of this process, or None if it is the only one.

    Arguments go before what is found, one by one; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID of the environment stand for them. ValueError, naming the flag to give, if only a
    part is known or the numbers contradict each other.
    """
    number = lambda name: int(environ[name]) if environ.get(name) else None
    coordinator = coordinator or environ.get("JAX_COORDINATOR_ADDRESS") or None
    processes = number("JAX_NUM_PROCESSES") if processes is None else processes
    process = number("JAX_PROCESS_ID") if process is None else process
    if processes == 1 and not process:
        return None
    given = (coordinator, processes, process)
    found = None
    if None in given:
        found = _search(environ, world or REAL, processes)
        if found is None and given == (None, None, None):
            return None
    found = found or Place("", 0, -1, None, "flags")
    place = Place(
        coordinator or found.coordinator,
        found.processes if processes is None else processes,
        found.process if process is None else process,
        found.device,
        found.found,
    )
    _check(place)
    return place if place.processes > 1 else None


def _search(environ: Mapping[str, str], world: World, processes: int | None) -> Place | None:
    """The first scheduler that has left its traces."""
    for finder in (_tpu, _slurm, _open_mpi):
        place = finder(environ, world)
        if place is not None:
            return place
    return _kubernetes(environ, world, processes)


def _check(place: Place) -> None:
    """ValueError saying which flag is missing or wrong."""
    example = "such as --coordinator=10.0.0.1:8482 --processes=4 --process=0"
    if not place.coordinator or place.processes < 1 or place.process < 0:
        missing = [
            flag
            for flag, absent in (
                ("--coordinator", not place.coordinator),
                ("--processes", place.processes < 1),
                ("--process", place.process < 0),
            )
            if absent
        ]
        raise ValueError(
            f"a run of several processes needs {' and '.join(missing)} ({place.found} did not "
            f"tell): give all three flags to every process, {example}"
        )
    if not place.process < place.processes:
        raise ValueError(
            f"process {place.process} of {place.processes} ({place.found}): processes are "
            f"numbered from 0 to --processes minus 1, {example}"
        )
    if not re.fullmatch(r".+:\d+", place.coordinator):
        raise ValueError(
            f"--coordinator={place.coordinator} has no port: give the address of process 0, "
            f"{example}"
        )


# --- schedulers -----------------------------------------------------------------------------------
def _tpu(environ: Mapping[str, str], world: World) -> Place | None:
    """A TPU pod slice or several: GKE says it in the environment, Compute Engine by metadata."""
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms:
        return None
    names = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    number, settings = environ.get("TPU_WORKER_ID"), ""
    if names is None and "TPU_SKIP_MDS_QUERY" not in environ and world.has_tpu():
        names = world.metadata("worker-network-endpoints")
        number = world.metadata("agent-worker-number")
        settings = world.metadata("tpu-env") or ""
    if not names or number is None:
        return None
    noted = dict(re.findall(r"^(\w+):\s*'?(.*?)'?\s*$", settings, re.MULTILINE))
    setting = lambda name: environ.get(name) or noted.get(name) or ""
    hosts = [_tpu_host(entry) for entry in names.split(",")]
    slices = int(setting("MEGASCALE_NUM_SLICES") or 1)
    which = int(setting("MEGASCALE_SLICE_ID") or 0)
    count = len(hosts) * slices
    if count == 1:
        return None
    first = setting("MEGASCALE_COORDINATOR_ADDRESS").split(":")[0] or hosts[0]
    port = environ.get("JAX_COORDINATOR_PORT") or PORT
    return Place(
        f"{first}:{port}", count, which * len(hosts) + int(number), None, "the TPU environment"
    )


def _tpu_host(entry: str) -> str:
    """Address in "address", "address:port" or the metadata server's "name:number:address"."""
    parts = entry.strip().split(":")
    return parts[2] if len(parts) == 3 else parts[0]


def _slurm(environ: Mapping[str, str], world: World) -> Place | None:
    """A step of a Slurm job: what srun starts."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environ for name in names):
        return None
    count = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or 1)
    if count == 1:
        return None
    # One task on each node uses all its devices, several share them one each.
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or ""
    alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
    host, job = _first_node(environ["SLURM_STEP_NODELIST"]), environ["SLURM_JOB_ID"]
    return Place(
        f"{host}:{_job_port(job, environ)}",
        count,
        int(environ["SLURM_PROCID"]),
        None if alone else int(environ["SLURM_LOCALID"]),
        "Slurm",
    )


def _first_node(nodes: str) -> str:
    """First host of a Slurm node list: "a01" for "a01", "a01,b2", "a[01-04]" and "a[01,07-9]"."""
    found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def _open_mpi(environ: Mapping[str, str], world: World) -> Place | None:
    """What mpirun or mpiexec of Open MPI starts. Process 0 is where mpirun runs, or, if all are on
    one host, here.
    """
    if "OMPI_COMM_WORLD_SIZE" not in environ or environ["OMPI_COMM_WORLD_SIZE"] == "1":
        return None
    count, local = environ["OMPI_COMM_WORLD_SIZE"], environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    address = re.search(r"tcp6?://\[?([^,;\]]+?)(?::\d+)?(?:[,;\]]|$)", uri)
    job = re.search(r"\d+", uri) or re.search(r"\d+", environ.get("PMIX_NAMESPACE", ""))
    number = str(int(job.group()) >> 12) if job and uri else job.group() if job else "0"
    host = "127.0.0.1" if local == count else address.group(1) if address else ""
    device = int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)) if local not in (None, "1") else None
    coordinator = f"{host}:{_job_port(number, environ)}" if host else ""
    return Place(coordinator, int(count), int(environ["OMPI_COMM_WORLD_RANK"]), device, "Open MPI")


def _job_port(job: str, environ: Mapping[str, str]) -> int:
    """A port that all processes of a job derive alike and other jobs of the host rarely do."""
    first, count = JOB_PORTS
    return int(environ.get("JAX_COORDINATOR_PORT") or first + int(job) % count)


def _kubernetes(environ: Mapping[str, str], world: World, processes: int | None) -> Place | None:
    """A pod of an Indexed Job, which a JobSet makes too: their host names end in the number."""
    index = environ.get("JOB_COMPLETION_INDEX")
    if index is None or "KUBERNETES_SERVICE_HOST" not in environ:
        return None
    name = world.hostname()
    host, _, domain = name.partition(".")
    job = host.removesuffix(f"-{index}")
    count = world.job_size(job) if processes is None else processes
    if count == 1:
        return None
    port = environ.get("JAX_COORDINATOR_PORT") or PORT
    coordinator = f"{job}-0.{domain}:{port}" if domain and job != host else ""
    return Place(coordinator, count, int(index), None, "Kubernetes")


# --- the machine ----------------------------------------------------------------------------------
def _metadata(attribute: str) -> str | None:
    """An attribute of this TPU VM, or None where there is no metadata server or no such entry."""
    request = urllib.request.Request(METADATA + attribute, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.read().decode()
    except OSError:  # also what an HTTP status other than 200 raises
        return None


def _job_size(job: str) -> int:
    """How many pods of a Job run at once, by the cluster's API server.

    ValueError saying what to add to the pod if its service account may not ask.
    """
    try:
        space = (ACCOUNT / "namespace").read_text().strip()
        server = f"{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
        token = (ACCOUNT / "token").read_text().strip()
        request = urllib.request.Request(
            f"https://{server}/apis/batch/v1/namespaces/{space}/jobs/{job}",
            headers={"Authorization": f"Bearer {token}"},
        )
        trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        with urllib.request.urlopen(request, timeout=10, context=trusted) as reply:
            return int(json.load(reply)["spec"]["parallelism"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"how many processes Job {job} has cannot be asked of the cluster ({error}): set the "
            "environment variable JAX_NUM_PROCESSES to its parallelism in the pod's template (1 if "
            "every pod is a run of its own), or let its service account get jobs"
        ) from error


REAL = World(has_tpu, _metadata, socket.getfqdn, _job_size)
