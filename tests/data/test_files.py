import builtins
import uuid

import fsspec
import pytest

from vlm_jax.data import files
from vlm_jax.data.schema import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)


@pytest.fixture
def bucket():
    """A fresh folder of the store memory://, and its address."""
    store, name = fsspec.filesystem("memory"), uuid.uuid4().hex
    yield store, f"memory://{name}"
    store.rm(f"/{name}", recursive=True) if store.exists(f"/{name}") else None


def names(found):
    return [file.path.rsplit("/", 1)[-1] for file in found]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{9..10}", ["9", "10"]),
        ("{x,y}/{0..1}", ["x/0", "x/1", "y/0", "y/1"]),
        ("{a{0..1},b}", ["a0", "b", "a1", "b"]),
    ],
)
def test_braces_count_and_list(pattern, expected):
    assert list(files.braces(pattern)) == expected


@pytest.mark.parametrize("pattern", ["{a}", "{}", "{3..1}", "{0..9999999}", "{a..c}"])
def test_other_braces_are_an_error(pattern):
    with pytest.raises(DataError, match="braces hold a range|must count up"):
        list(files.braces(pattern))


def test_wildcards_are_sorted_and_patterns_keep_their_order(tmp_path):
    for name in ("b1", "b0", "a0"):
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / "b_folder").mkdir()
    found = files.find([f"{tmp_path}/b*", f"{tmp_path}/a{{0..0}}"])
    assert names(found) == ["b0", "b1", "a0"] and {file.size for file in found} == {2}
    assert files.common_folder([file.path for file in found]) == f"{tmp_path}/"


def test_a_name_with_brackets_may_be_meant_as_it_is(tmp_path):
    (tmp_path / "a[1].tar").write_bytes(b"x")
    assert names(files.find(f"{tmp_path}/a[1].tar")) == ["a[1].tar"]


def test_what_matches_nothing_is_answered_with_what_there_is(tmp_path):
    with pytest.raises(DataError, match=r"train\*\.tar: .* is empty"):
        files.find(f"{tmp_path}/train*.tar")
    (tmp_path / "train-000.tar").write_bytes(b"x")
    with pytest.raises(DataError, match="train-001.tar; did you mean 'train-000.tar'"):
        files.find(f"{tmp_path}/train-{{000..001}}.tar")
    with pytest.raises(DataError, match="there is no folder .*/nowhere"):
        files.find(f"{tmp_path}/nowhere/*.tar")
    with pytest.raises(DataError, match="is named twice; .* mixture"):
        files.find([f"{tmp_path}/*.tar", f"{tmp_path}/train-000.tar"])
    with pytest.raises(DataError, match="no shard is named"):
        files.find([])


def test_the_fingerprint_follows_the_content(tmp_path):
    path = tmp_path / "a"
    seen = set()
    for time, content in ((1, b"x"), (2, b"x"), (2, b"xy")):
        path.write_bytes(content)
        files.os.utime(path, (time, time))
        seen.add(files.find(str(path))[0].fingerprint)
    assert len(seen) == 3


def test_ranges_of_local_and_remote_files(tmp_path, bucket):
    store, address = bucket
    (tmp_path / "a").write_bytes(b"0123456789")
    store.pipe_file(f"{address}/a", b"0123456789")
    for path in (f"{tmp_path}/a", f"{address}/a"):
        assert files.read_range(path, 3, 4) == b"3456"
        with pytest.raises(DataError, match="ends at byte 10, 12 are needed"):
            files.read_range(path, 8, 4)
        with files.open_file(path) as file:
            assert file.read(2) == b"01"
        assert files.read_all(path) == b"0123456789" and files.read_all(path + "b") is None


def test_remote_files_by_wildcard_and_by_braces(bucket):
    store, address = bucket
    for name in ("s-0.tar", "s-1.tar", "other.txt"):
        store.pipe_file(f"{address}/{name}", b"abc")
    globbed, braced = files.find(f"{address}/*.tar"), files.find(f"{address}/s-{{0..1}}.tar")
    for found in (globbed, braced):
        assert names(found) == ["s-0.tar", "s-1.tar"]
        assert found[0].size == 3 and found[0].stamp
    assert files.common_folder([file.path for file in braced]) == f"{address}/"
    with pytest.raises(DataError, match="did you mean 's-1.tar'"):
        files.find(f"{address}/s-{{0..2}}.tar")
    with pytest.raises(DataError, match="no file matches"):
        files.find(f"{address}/nowhere/*.tar")


def test_files_are_written_to_local_and_remote_folders_that_are_made(tmp_path, bucket):
    for path in (f"{tmp_path}/deep/er/a", f"{bucket[1]}/deep/er/a"):
        files.write(path, b"abc")
        assert files.read_all(path) == b"abc"


def test_a_remote_file_is_copied_once_and_again_when_it_changes(tmp_path, bucket):
    store, address = bucket
    store.pipe_file(f"{address}/a", b"abc")
    path = files.local_copy(files.find(f"{address}/a")[0])
    assert path.startswith(str(tmp_path)) and open(path, "rb").read() == b"abc"
    assert files.local_copy(files.find(f"{address}/a")[0]) == path
    store.pipe_file(f"{address}/a", b"abcd")
    assert open(files.local_copy(files.find(f"{address}/a")[0]), "rb").read() == b"abcd"
    local = tmp_path / "b"
    local.write_bytes(b"x")
    assert files.local_copy(files.find(str(local))[0]) == str(local)


def test_a_network_error_is_tried_again_and_then_stops_the_run(bucket, monkeypatch):
    store, address = bucket
    store.pipe_file(f"{address}/a", b"abc")
    whole, calls = type(store).cat_file, []

    def shaky(self, *arguments, fails=2, **options):
        calls.append(1)
        if len(calls) <= fails:
            raise ConnectionResetError("reset by peer")
        return whole(self, *arguments, **options)

    monkeypatch.setattr(type(store), "cat_file", shaky)
    assert files.read_range(f"{address}/a", 0, 2) == b"ab" and len(calls) == 3
    monkeypatch.setattr(type(store), "cat_file", lambda *a, **k: shaky(*a, fails=99, **k))
    with pytest.raises(OSError, match="after 4 attempts .*reset by peer.*goes on where it stopped"):
        files.read_range(f"{address}/a", 0, 2)


def test_a_server_without_ranges_is_an_error(bucket, monkeypatch):
    store, address = bucket
    store.pipe_file(f"{address}/a", b"abcdef")
    monkeypatch.setattr(type(store), "cat_file", lambda self, path, start, end: b"abcdef")
    with pytest.raises(DataError, match="sends whole files instead of ranges"):
        files.read_range(f"{address}/a", 1, 2)


def test_missing_libraries_and_unknown_protocols(monkeypatch):
    with pytest.raises(DataError, match="Protocol not known: nonsense; known: .*s3"):
        files.find("nonsense://bucket/a.tar")

    def without(missing):
        load = builtins.__import__

        def load_all_but(name, *arguments, **options):
            if name.split(".")[0] == missing:
                raise ImportError(f"no {name}")
            return load(name, *arguments, **options)

        return load_all_but

    def no_gcsfs(path):
        raise ImportError("Please install gcsfs to access Google Storage")

    with monkeypatch.context() as patch:
        patch.setattr(fsspec.core, "url_to_fs", no_gcsfs)
        with pytest.raises(DataError, match="gs:// needs another library; run: pip install gcsfs"):
            files.find("gs://bucket/a.tar")
    monkeypatch.setattr(builtins, "__import__", without("fsspec"))
    with pytest.raises(DataError, match="pip install fsspec s3fs"):
        files.find("s3://bucket/a.tar")


def test_concurrent_calls_keep_their_order():
    assert files.concurrently(lambda x: x * x, range(50)) == [x * x for x in range(50)]
