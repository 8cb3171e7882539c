import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from vlm_jax.weights.folder import WeightsError
from vlm_jax.weights.pickled import read_pth


def save(content, path, **options):
    torch.save(content, path, _use_new_zipfile_serialization=False, **options)
    return path


def test_tensors_of_every_kind_arrive_as_they_are(tmp_path):
    kinds = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32)
    kinds += (torch.int16, torch.int8, torch.uint8, torch.bool)
    state = {str(kind): (torch.randn(3, 4) * 50).to(kind) for kind in kinds}
    whole = torch.randn(5, 6)
    state |= {"all": whole, "part": whole[1:4, ::2], "turned": whole.T, "one": torch.tensor(7.0)}
    state |= {"none": torch.zeros(0, 3)}
    read = read_pth(save(state, tmp_path / "x.pth"))
    assert list(read) == list(state)
    for name, tensor in state.items():
        expected = tensor.numpy()
        np.testing.assert_array_equal(read[name], expected, err_msg=name)
        assert read[name].dtype == expected.dtype and read[name].flags.c_contiguous, name


def test_a_modules_state_dict_with_its_versions(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    read = read_pth(save(module.state_dict(), tmp_path / "x.pth"))
    assert read.shapes["0.weight"] == (3, 2, 3, 3) and read["1.num_batches_tracked"] == 0


class Evil:
    """What it is pickled as is a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["beside", "instead", "inside"])
def test_a_file_that_would_run_a_program_is_refused_and_runs_none(place, tmp_path):
    trace = tmp_path / "trace"
    evil = Evil(os.system, f"touch {trace}")
    state = {"beside": {"a": torch.ones(2), "b": evil}, "instead": evil, "inside": {"a": [evil]}}
    path = save(state[place], tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"posix\.system, which is refused"):
        read_pth(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(evil))  # noqa: S301  our own
    assert trace.exists()  # so the file did hold a program


@pytest.mark.parametrize(
    ("content", "options", "refused"),
    [
        ({"a": Evil(eval, "1")}, {}, "builtins.eval|__builtin__.eval"),
        ({"a": torch.nn.Linear(1, 1)}, {}, "torch.nn"),
        ({"a": torch.ones(1)}, {"pickle_protocol": 4}, "instruction"),
        ({"a": 1.5}, {}, "other than a dict of tensors"),
        ([torch.ones(1)], {}, "other than a dict of tensors"),
        ({"a": torch.ones(1, dtype=torch.bfloat16)}, {}, "BFloat16Storage"),
    ],
)
def test_anything_but_tensors_is_refused(content, options, refused, tmp_path):
    with pytest.raises(WeightsError, match=refused):
        read_pth(save(content, tmp_path / "x.pth", **options))


def test_names_have_no_meaning_but_their_own():
    """A tensor's name as a function's, an ordered dict of something: both are no calls here."""
    from vlm_jax.weights import pickled

    for function, arguments in [
        (pickled.Name(pickled.ORDERED), ([1, 2],)),
        (pickled.Name("torch FloatStorage"), ()),
        (pickled.Name(pickled.TENSOR), ("storage", 0, (1,), (1,))),
        ("collections OrderedDict", ()),
    ]:
        with pytest.raises(ValueError, match="refused"):
            pickled._call(function, arguments)


def test_a_tensor_that_reaches_outside_its_buffer(tmp_path):
    from vlm_jax.weights import pickled

    buffers = {"0": np.zeros(6, np.float32)}
    sound = pickled.View("0", 1, (2, 2), (3, 1))
    assert pickled._array(sound, buffers, "x").shape == (2, 2)
    for offset, shape, strides in [(3, (2, 2), (3, 1)), (-1, (2,), (1,)), (2, (2,), (-1,))]:
        with pytest.raises(WeightsError, match="outside its buffer"):
            pickled._array(pickled.View("0", offset, shape, strides), buffers, "x")


def test_damaged_and_other_files(tmp_path):
    path = save({"a": torch.ones(100)}, tmp_path / "x.pth")
    whole = path.read_bytes()
    for end in (3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(WeightsError, match="x.pth"):
            read_pth(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(WeightsError, match="x.pth"):
        read_pth(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_pth(tmp_path / "absent.pth")
