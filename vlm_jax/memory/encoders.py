"""What turns pictures, sounds and texts into the vectors of a memory: a trained run, a published
vision encoder, or nothing but pixels.

An encoder has a `name`, a `fingerprint`, `images(source)` and `sounds(source)`, which yield
(position, vector) of the examples that can be read, and `texts(texts)`. Vectors with equal
fingerprints can be compared.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from vlm_jax import features, kwargs, trees
from vlm_jax.data import images
from vlm_jax.data.features import digest_of, fingerprint
from vlm_jax.data.pipeline import InputReader, Loader, eval_batches
from vlm_jax.data.schema import DataError, Source
from vlm_jax.weights.preprocessing import image_fields

PIXELS = "pixels"

_LISTENERS = "sounds need a run with config.model.audio, such as configs/retrieval/audio_scenes.py"


class Pixels:
    """Where a picture is dark and in which colour, and how its edges run: no training, no network.

    Ink (255 minus the pixels) on an 8 x 8 grid, ink edges on the same grid, and the shares of 64
    colours without their places, each of length 1; f32[511].
    """

    name = PIXELS
    fingerprint = "pixels/1"

    def images(self, source: Source) -> Iterator[tuple[int, Float[np.ndarray, " width"]]]:
        """(position, vector); pictures that cannot be read are left out."""
        for position in range(len(source)):
            try:
                yield position, _pixel_vector(images.decode(source[position]["image"]))
            except DataError:
                continue

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """ValueError: pixels say nothing about texts."""
        raise ValueError(
            "a memory of plain pixels cannot be searched for a text: build one from a run that "
            "was trained for retrieval, --mode=index --workdir=RUN"
        )

    def sounds(self, source: Source) -> Iterator[tuple[int, Float[np.ndarray, " width"]]]:
        """ValueError: pixels say nothing about sounds."""
        raise ValueError(f"plain pixels know no sounds; {_LISTENERS}")


def _pixel_vector(pixels: np.ndarray) -> Float[np.ndarray, " 511"]:
    """u8[H, W, 3] to its vector."""
    picture = Image.fromarray(pixels)
    grid = lambda image, side: np.asarray(image.resize((side, side), Image.Resampling.BOX))
    ink = 1 - grid(picture, 8).astype(np.float32) / 255
    grey = 1 - grid(picture.convert("L"), 64).astype(np.float32) / 255
    down, right = np.diff(grey, axis=0, append=0), np.diff(grey, axis=1, append=0)
    slopes = np.stack([np.maximum(x, 0) for x in (down, -down, right, -right)])
    edges = slopes.reshape(4, 8, 8, 8, 8).mean(axis=(2, 4))
    tones = grid(picture, 32).reshape(-1, 3) // 64
    counts = np.bincount(tones @ np.array([16, 4, 1]), minlength=64)[:63]  # but for white
    colours = np.sqrt(counts).astype(np.float32)
    parts = [ink.reshape(-1), edges.reshape(-1), colours]
    unit = [part / max(float(np.linalg.norm(part)), 1e-6) for part in parts]
    return np.concatenate(unit).astype(np.float32)


class Trained:
    """A trained model: its image and text embeddings, or, where it has no shared space, the mean
    of its image tokens. model: of `vlm_jax.load`. name: its workdir.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name

    @cached_property
    def fingerprint(self) -> str:
        """Changes with every parameter, and with how pictures and sounds are read."""
        run = self.model.run
        config = run.experiment.config
        digest = hashlib.blake2b(digest_size=16)
        read = {"model": config["model"], "image": config["data"].get("image")}
        heard = config["data"].get("audio")
        read |= {} if heard is None else {"audio": heard}
        digest.update(json.dumps(read, sort_keys=True, default=str).encode())
        for path, leaf in sorted(trees.flatten(run.variables).items()):
            array = np.asarray(jax.device_get(leaf))
            digest.update(f"{path} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def images(self, source: Source) -> Iterator[tuple[int, Float[np.ndarray, " width"]]]:
        """(position, vector) of the examples whose picture can be read. ValueError for a model that
        has several vectors of each (BLIP-2).
        """
        run = self.model.run
        if run.experiment.model.contrast_head is not None:
            for position, vector in run.image_embeddings(source):
                if vector.ndim > 1:
                    raise ValueError(
                        f"{self.name} has {len(vector)} vectors of each picture, and a memory "
                        "keeps one: choose another encoder"
                    )
                yield position, vector
            return
        yield from run.features(source)

    def sounds(self, source: Source) -> Iterator[tuple[int, Float[np.ndarray, " width"]]]:
        """(position, unit vector) of the examples whose sound can be read; ValueError for a run
        that does not listen.
        """
        if self.model.run.experiment.read.listen is None:
            raise ValueError(f"{self.name or 'this run'} does not listen; {_LISTENERS}")
        yield from self.model.run.audio_embeddings(source)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors f32[n, E]; ValueError for a run without retrieval."""
        return self.model.embed_text(list(texts))


class Published:
    """The vision encoder of a published checkpoint folder, without its classifier: the pooled
    vector, or the mean of the image tokens.

    Pictures are stretched to the square of the size that the folder names, as the kit's configs
    read them; vectors of picture files are those that `vlm_jax.features` keeps for these.
    """

    def __init__(self, folder: str | Path) -> None:
        """DataError if the folder is no checkpoint."""
        path = Path(folder).expanduser().absolute()
        self.name, self.image = str(path), {"size": image_fields(path)[0]["size"]}
        self.fingerprint = fingerprint({"vision": digest_of(path), "image": self.image}, [])

    def images(self, source: Source) -> Iterator[tuple[int, Float[np.ndarray, " width"]]]:
        """(position, vector) of the examples whose picture can be read."""
        source = getattr(source, "pictures", source)
        files = (isinstance(source[i]["image"], str | Path) for i in range(len(source)))
        if all(files) and len(source) > 1:
            kept = features.cached(source, vision=self.name, image=self.image)
            for position in range(len(kept)):
                example: Any = kept[position]
                if "features" in example:
                    yield position, example["features"]["pooled"]
            return
        loader = Loader(source, kwargs.call(InputReader, self.image, "image"), {})
        for batch in eval_batches(loader, batch_size=min(features.BATCH, len(source))):
            found = np.asarray(self._encode(batch["image"]))
            for row in np.flatnonzero(batch["valid"]):
                yield int(batch["index"][row]), found[row]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """ValueError: it has seen no texts."""
        raise ValueError(
            f"{self.name} encodes pictures alone, so its memory cannot be searched for a text: "
            "search for an --image, or build the memory from a run that was trained for retrieval"
        )

    def sounds(self, source: Source) -> Iterator[tuple[int, Float[np.ndarray, " width"]]]:
        """ValueError: it has heard no sounds."""
        raise ValueError(f"{self.name} encodes pictures alone; {_LISTENERS}")

    @cached_property
    def _encode(self) -> Callable[[Any], Any]:
        model, variables = features.encoder(self.name)

        @jax.jit
        def encode(images: Any) -> Any:
            found: Any = model.apply(variables, images, method="encode_image")
            return found.tokens.mean(1) if found.pooled is None else found.pooled

        return encode


Encoder = Pixels | Trained | Published


def make_encoder(name: str) -> Encoder:
    """The encoder of a name: "pixels", the workdir of a finished run, or the folder of a published
    checkpoint.
    """
    if name == PIXELS:
        return Pixels()
    if published(name):
        return Published(name)
    from vlm_jax import api  # late: the run of a memory is seldom needed

    return Trained(api.load(name), str(Path(name).expanduser().absolute()))


def published(name: str) -> bool:
    """Whether a name is that of a published checkpoint's folder; a run's config has no
    "model_type".
    """
    path = Path(name).expanduser() / "config.json"
    return path.is_file() and "model_type" in json.loads(path.read_text(encoding="utf-8"))
