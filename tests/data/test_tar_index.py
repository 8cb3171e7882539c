import io
import mmap
import tarfile

import numpy as np
import pytest

from tests.data.shards import numbered, write_tar
from vlm_jax.data import files, tar_index
from vlm_jax.data.schema import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "cache"))


def found(path):
    return files.find(str(path))[0]


def listed(index, content):
    """{key: {kind: content}} of a shard."""
    return {
        index.key(i): {k: content[a : a + n] for k, (a, n) in index.members(i).items()}
        for i in range(len(index))
    }


MEMBERS = [
    ("a/001.jpg", b"one"),
    ("a/001.txt", b"1"),
    ("./b/002.seg.PNG", b"two"),
    ("a/003.txt", b"3"),
    ("a/001.json", b"late"),
    ("a/003.jpg", b"three"),
    ("b/002.txt", b""),
]
EXPECTED = {
    "a/001": {"jpg": b"one", "txt": b"1", "json": b"late"},
    "b/002": {"seg.png": b"two", "txt": b""},
    "a/003": {"txt": b"3", "jpg": b"three"},
}


def test_members_are_grouped_by_key_wherever_they_stand(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    index = tar_index.open_index(found(path))
    assert listed(index, open(path, "rb").read()) == EXPECTED
    assert list(EXPECTED) == [index.key(i) for i in range(3)]
    assert set(index.kinds) == {"jpg", "txt", "json", "seg.png"}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_form_of_tar_with_long_names(tmp_path, form):
    name = "folder/" * 15 + "ü" * (0 if form == tarfile.USTAR_FORMAT else 120) + "x.txt"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    index = tar_index.scan_shard(found(tmp_path / "a.tar"))
    content = (tmp_path / "a.tar").read_bytes()
    assert listed(index, content) == {name.removesuffix(".txt"): {"txt": b"abc"}}


def test_what_is_no_data_is_left_out(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (".hidden.txt", "no_ending", "._1.txt", "__meta__/1.txt", "ends.", "1.txt"):
            archive.addfile(tarfile.TarInfo(name))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("x.txt")
            entry.type = kind
            archive.addfile(entry)
    index = tar_index.scan_shard(found(tmp_path / "a.tar"))
    assert [index.key(i) for i in range(len(index))] == ["1"]


def test_an_empty_archive_has_no_examples(tmp_path):
    index = tar_index.open_index(found(write_tar(tmp_path / "a.tar", [])))
    assert len(index) == 0 and index.kinds == ()


def sound(tmp_path):
    path = tmp_path / "a.tar"
    return path, open(write_tar(path, numbered(0, 3)), "rb").read()


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (0, "empty"),
        (100, "truncated"),
        (512, "no end mark|unexpected end of data"),
        (1100, "unexpected end of data|no end mark|truncated"),
        (1024, "no end mark at byte 1,024 of 1,024, after 1 files, the last of them 0000.png"),
        (6 * 1024, "no end mark"),
        (6 * 1024 - 700, "unexpected end of data, after 5 files|no end mark"),
    ],
)
def test_a_shard_that_is_cut_off_is_named(tmp_path, stop, message):
    path, content = sound(tmp_path)
    assert len(tar_index.scan_shard(found(path))) == 3
    path.write_bytes(content[:stop])
    with pytest.raises(DataError, match=f"a.tar is cut off or damaged: .*({message}).*copy it ag"):
        tar_index.scan_shard(found(path))


def test_every_cut_is_noticed_but_in_the_zeros_at_the_end(tmp_path):
    path, content = sound(tmp_path)
    end = 6 * 1024
    for stop in range(0, end + 1, 256):
        path.write_bytes(content[:stop])
        with pytest.raises(DataError, match="cut off or damaged"):
            tar_index.scan_shard(found(path))
    path.write_bytes(content[: end + 512])
    assert len(tar_index.scan_shard(found(path))) == 3


@pytest.mark.parametrize("position", [0, 1024, 5 * 1024])
def test_a_damaged_header_is_noticed(tmp_path, position):
    path, content = sound(tmp_path)
    path.write_bytes(content[: position + 5] + b"\xff\xff" + content[position + 7 :])
    with pytest.raises(DataError, match="cut off or damaged"):
        tar_index.scan_shard(found(path))


def test_compressed_and_joined_archives_are_told_apart(tmp_path):
    path, content = sound(tmp_path)
    path.write_bytes(content + content)
    with pytest.raises(DataError, match="follow the end mark: archives were joined with cat"):
        tar_index.scan_shard(found(path))
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("1.txt"))
    with pytest.raises(DataError, match="is compressed; run gunzip"):
        tar_index.scan_shard(found(path))


def test_a_member_that_comes_twice_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.txt", b""), ("2.txt", b""), ("1.TXT", b"")])
    with pytest.raises(DataError, match="holds 1.txt twice"):
        tar_index.scan_shard(found(path))


def header(name=b"x.txt", size=b"00000000005", kind=b"0"):
    """The 512 bytes of a header with a right check sum."""
    fields = [(name, 100), (b"0000644\0", 8), (b"0" * 7, 8), (b"0" * 7, 8), (size, 12), (b"0", 12)]
    block = b"".join(text.ljust(width, b"\0") for text, width in fields)
    block += b" " * 8 + kind
    block = bytearray(block.ljust(512, b"\0"))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_hostile_archives_ask_for_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    with path.open("wb") as file:  # an extended header of 4 GB, stored as a hole
        file.write(header(b"././@LongLink", b"%011o" % (4 << 30), b"L"))
        file.truncate(5 << 30)
    with pytest.raises(DataError, match="a header of .* bytes; this is no honest tar"):
        tar_index.scan_shard(found(path))
    path.write_bytes(header(size=b"\x80" + b"\xff" * 11) + bytes(1024))
    with pytest.raises(DataError, match="a.tar"):
        tar_index.scan_shard(found(path))
    write_tar(path, [(f"{i}.k{i}", b"") for i in range(300)])
    with pytest.raises(DataError, match="over 256 different endings, such as .k256"):
        tar_index.scan_shard(found(path))
    write_tar(path, [("n" * 2000 + ".txt", b"")])
    with pytest.raises(DataError, match="a name of over 1024 bytes"):
        tar_index.scan_shard(found(path))
    monkeypatch.setattr(tar_index, "MAX_MEMBERS", 5)
    write_tar(path, numbered(0, 3))
    with pytest.raises(DataError, match="over 5 files; make smaller shards"):
        tar_index.scan_shard(found(path))


def test_an_index_is_made_once_and_again_when_the_shard_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", numbered(0, 3))
    scans, scan = [], tar_index.scan
    monkeypatch.setattr(tar_index, "scan", lambda *a: scans.append(1) or scan(*a))
    for _ in range(2):
        assert len(tar_index.open_index(found(path))) == 3 and len(scans) == 1
    write_tar(path, numbered(0, 5))
    assert len(tar_index.open_index(found(path))) == 5 and len(scans) == 2
    kept = list((tmp_path / "cache" / "indexes").iterdir())
    assert len(kept) == 2
    for file in kept:  # as after a crash of the file system
        file.write_bytes(file.read_bytes()[:-20])
    assert len(tar_index.open_index(found(path))) == 5 and len(scans) == 3


def test_an_index_beside_the_shard_or_in_a_shared_folder_saves_the_scan(tmp_path, monkeypatch):
    shards = [write_tar(tmp_path / f"{n}.tar", numbered(0, n)) for n in (3, 4)]
    assert tar_index.write_beside(found(shards[0])) == 3
    shared = f"{tmp_path}/shared"
    tar_index.open_index(found(shards[1]), shared)
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path / "other"))  # another machine
    monkeypatch.setattr(tar_index, "scan", None)
    assert len(tar_index.open_index(found(shards[0]), shared)) == 3
    assert len(tar_index.open_index(found(shards[1]), shared)) == 4


def test_an_index_of_another_version_of_the_shard_is_not_used(tmp_path):
    path = write_tar(tmp_path / "a.tar", numbered(0, 3))
    tar_index.write_beside(found(path))
    write_tar(path, numbered(0, 30))
    assert len(tar_index.open_index(found(path))) == 30
    (tmp_path / "a.tar.index").write_bytes(b"vlm_jax tar index 1\n{broken")
    write_tar(path, numbered(0, 7))
    assert len(tar_index.open_index(found(path))) == 7


def test_an_index_beside_a_copied_shard_is_used_but_not_beside_a_rewritten_one(
    tmp_path, monkeypatch
):
    path = write_tar(tmp_path / "a.tar", [("1.txt", b"x" * 5), ("2.txt", b"y" * 600)])
    tar_index.write_beside(found(path))
    files.os.utime(path, (5, 5))  # as copying does
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "scan", None)
        for _ in range(2):
            index = tar_index.open_index(found(path))
            assert [index.members(i)["txt"][1] for i in range(2)] == [5, 600]
    size = found(path).size
    write_tar(path, [("1.txt", b"x" * 600), ("2.txt", b"y" * 5)])
    assert found(path).size == size
    index = tar_index.open_index(found(path))
    assert [index.members(i)["txt"][1] for i in range(2)] == [600, 5]


def test_arrays_stay_on_disk(tmp_path):
    index = tar_index.open_index(found(write_tar(tmp_path / "a.tar", numbered(0, 3))))
    assert index.spans.dtype == np.int64 and index.kind.dtype == np.uint16
    for values in (index.starts, index.kind, index.spans, index.ends, index.keys):
        assert type(values) is np.ndarray and not values.flags.writeable
        while isinstance(values.base, np.ndarray):
            values = values.base
        assert isinstance(values.base, mmap.mmap)
