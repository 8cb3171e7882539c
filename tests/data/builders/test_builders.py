import subprocess
import sys

import pytest

from tests.data.builders.test_jsonl_folder import LINES, folder
from vlm_jax.data.builders import BUILDERS, build
from vlm_jax.data.schema import DataError
from vlm_jax.data.tfds_source import FIELDS, Tfds


def test_every_builder_is_named_as_its_data_are_stored_and_can_be_read_back():
    assert {name: builder.name for name, builder in BUILDERS.items()} == {n: n for n in BUILDERS}
    assert set(BUILDERS) < set(FIELDS)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_missing_folder_is_answered_with_what_belongs_in_it(name, tmp_path):
    with pytest.raises(DataError, match="none is not a folder") as caught:
        build(name, str(tmp_path / "none"), str(tmp_path))
    assert BUILDERS[name].MANUAL_DOWNLOAD_INSTRUCTIONS in str(caught.value)


def test_an_empty_folder_is_answered_with_what_belongs_in_it(tmp_path):
    with pytest.raises(DataError, match="(?s) is empty; .*visualqa.org"):
        build("vqav2", str(tmp_path), str(tmp_path / "out"))


def test_what_is_built_is_kept_until_it_is_deleted(tmp_path):
    folder(tmp_path / "mine")
    first = build("jsonl_folder", str(tmp_path / "mine"), str(tmp_path / "out"))
    folder(tmp_path / "other", LINES[:1])
    assert build("jsonl_folder", str(tmp_path / "other"), str(tmp_path / "out")) == first
    assert len(Tfds("jsonl_folder", "train", str(tmp_path / "out"))) == 2


def test_building_imports_no_tensorflow(tmp_path):
    folder(tmp_path / "mine")
    code = (
        "import sys; from vlm_jax.data.prepare import main;"
        f"failed = main(['jsonl_folder', '--folder', {str(tmp_path / 'mine')!r},"
        f" '--data_dir', {str(tmp_path / 'out')!r}]);"
        "sys.exit(failed or ' '.join({'tensorflow', 'jax', 'flax'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is ready" in done.stdout
