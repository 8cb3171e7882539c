"""The place of a process as every scheduler tells it, and what is said when it does not."""

import pytest

from vlm_jax.cluster import Place, World, find

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "gpu[007,009-011]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
GKE = {"TPU_WORKER_HOSTNAMES": "h-0.s,h-1.s,h-2.s,h-3.s", "TPU_WORKER_ID": "3"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


def world(has_tpu=False, metadata=None, hostname="here", job_size=None):
    def refuse(job):
        raise ValueError(f"may not ask for {job}")

    return World(
        lambda: has_tpu,
        lambda name: (metadata or {}).get(name),
        lambda: hostname,
        refuse if job_size is None else lambda job: job_size[job],
    )


def found(environ, **machine):
    return find(environ=environ, world=world(**machine))


def test_without_any_trace_a_process_is_alone():
    assert found({}) is None
    assert found({"HOME": "/root", "JAX_PLATFORMS": "cpu"}, has_tpu=True) is None
    assert find(None, 1, None, {}, world()) is None


def test_flags_and_variables_say_all():
    place = find("10.0.0.1:99", 4, 2, {}, world())
    assert place == Place("10.0.0.1:99", 4, 2, None, "flags")
    environ = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert found(environ)[:3] == ("a:1", 2, 1)
    assert find("b:2", None, 0, environ, world())[:3] == ("b:2", 2, 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("a:1", 4, None), "needs --process "),
        ((None, 4, 1), "needs --coordinator "),
        (("a:1", None, None), "needs --processes and --process "),
        (("a:1", 4, 4), "process 4 of 4 .*numbered from 0"),
        (("a", 4, 1), "--coordinator=a has no port"),
    ],
)
def test_half_a_place_is_an_error_that_names_the_flag(given, words):
    with pytest.raises(ValueError, match=words):
        find(*given, {}, world())


def test_slurm_names_the_first_node_and_a_port_of_the_job():
    assert found(SLURM) == Place("gpu007:61441", 4, 2, None, "Slurm")
    assert found(SLURM | {"JAX_COORDINATOR_PORT": "5000"}).coordinator == "gpu007:5000"
    assert found({**SLURM, "SLURM_STEP_NODELIST": "a1,b2"}).coordinator == "a1:61441"
    assert found({**SLURM, "SLURM_STEP_NODELIST": "n[01-16]"}).coordinator == "n01:61441"
    assert found({**SLURM, "SLURM_NTASKS": "1"}) is None
    batch = {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")}
    assert found(batch) is None  # inside sbatch, but not started by srun


def test_slurm_tasks_that_share_a_node_take_one_device_each():
    shared = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_LOCALID": "5"}
    assert found(shared | {"SLURM_NTASKS": "32"}).device == 5


def test_open_mpi_four_and_five():
    environ = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
    four = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    place = found(environ | four | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert place == Place(f"10.96.0.1:{61440 + (1531576320 >> 12) % 4096}", 4, 3, None, "Open MPI")
    one_host = {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
    place = found(environ | one_host | {"PMIX_NAMESPACE": "prterun-node-4242@1"})
    assert place[:4] == ("127.0.0.1:61586", 4, 3, 3)
    with pytest.raises(ValueError, match="needs --coordinator .Open MPI did not tell"):
        found(environ | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})


def test_gke_lists_the_hosts_of_a_slice_and_numbers_slices():
    assert found(GKE) == Place("h-0.s:8482", 4, 3, None, "the TPU environment")
    several = {
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "first.s:8080",
    }
    assert found(GKE | several)[:3] == ("first.s:8482", 8, 7)
    assert found(GKE | POD).found == "the TPU environment"
    assert found({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    assert found(GKE | {"JAX_PLATFORMS": "cpu"}) is None


def test_a_tpu_vm_asks_its_metadata_server():
    vm = {
        "worker-network-endpoints": "name:8470:10.0.0.4,name:8470:10.0.0.5",
        "agent-worker-number": "1",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\nZONE: 'us-west4-a'\n",
    }
    assert found({}, has_tpu=True, metadata=vm)[:3] == ("10.0.0.4:8482", 2, 1)
    vm["tpu-env"] += "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    vm["tpu-env"] += "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.2:8080'\n"
    assert found({}, has_tpu=True, metadata=vm)[:3] == ("10.0.0.2:8482", 4, 3)
    alone = {"worker-network-endpoints": "10.0.0.4", "agent-worker-number": "0"}
    assert found({}, has_tpu=True, metadata=alone) is None
    assert found({}, has_tpu=True) is None  # a notebook with a TPU has no metadata
    assert found({"TPU_SKIP_MDS_QUERY": "1"}, has_tpu=True, metadata=vm) is None


def test_a_pod_of_an_indexed_job_knows_the_name_of_the_first():
    name = "vlm-2.vlm.default.svc.cluster.local"
    environ = POD | {"JAX_NUM_PROCESSES": "4"}
    expected = Place("vlm-0.vlm.default.svc.cluster.local:8482", 4, 2, None, "Kubernetes")
    assert found(environ, hostname=name) == expected
    assert found(POD, hostname=name, job_size={"vlm": 4}) == expected
    jobset = "set-workers-0-2.set.space.svc.cluster.local"
    place = found(environ, hostname=jobset)
    assert place.coordinator == "set-workers-0-0.set.space.svc.cluster.local:8482"
    assert found(POD, hostname=name, job_size={"vlm": 1}) is None
    with pytest.raises(ValueError, match="needs --coordinator"):
        found(environ, hostname="vlm-2")  # no service: other pods have no names
    with pytest.raises(ValueError, match="may not ask for vlm"):
        found(POD, hostname=name)
