"""Frozen encoders run once over a data set, so that training reads what they made of it.

    data.train = dict(name="features", source=dict(name="emoji"), vision=FOLDER, text=FOLDER)

The folders are published checkpoints, the same that config.init takes the model's encoders from.
Results are kept in the cache folder under a fingerprint of encoders, data and preprocessing.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_jax import kwargs, models
from vlm_jax.data.features import (
    COMPLETE,
    Cached,
    digest_of,
    features_folder,
    fingerprint,
    identities,
)
from vlm_jax.data.pipeline import InputReader, Loader, eval_batches, stack
from vlm_jax.data.schema import Source
from vlm_jax.data.text import encoder_text
from vlm_jax.tokenizers.published import read_tokenizer
from vlm_jax.weights.folder import open_tensors, read_config
from vlm_jax.weights.preprocessing import image_fields
from vlm_jax.weights.pretrained import from_tensors
from vlm_jax.workdir import atomic_write_text

BATCH = 32
"""Images or texts at a time."""


def cached(
    source: Source,
    vision: str | None = None,
    text: str | None = None,
    image: Mapping[str, Any] | None = None,
    length: int = 32,
    tokens: bool = False,
) -> Cached:
    """The source with the features of its images and captions, computed if they are not kept yet.

    vision, text: folders of published checkpoints, or None to leave that side alone. image: fields
    of `InputReader` (None: what the vision folder says). length: of texts, in tokens. tokens: keep
    image tokens too, as float16, not only one vector per image.
    DataError if hardly any picture can be read, or a folder is none; ValueError for neither folder.
    """
    if vision is None and text is None:
        raise ValueError("features need a vision folder, a text folder, or both")
    images = texts = None
    if vision is not None:
        digest = digest_of(vision)
        reader = dict(image if image is not None else image_fields(vision)[0])
        key = fingerprint({"vision": digest, "image": reader}, identities(source))
        images = features_folder(key)
        if not _has(images, "tokens" if tokens else "pooled"):
            _keep(images, [], lambda folder: _images(folder, source, vision, reader, tokens))
    if text is not None:
        captions = [caption for i in range(len(source)) for caption in source[i]["captions"]]
        captions = list(dict.fromkeys(captions))
        key = fingerprint({"text": digest_of(text), "length": length}, captions)
        texts = features_folder(key)
        if not _has(texts, "texts"):
            _keep(texts, captions, lambda folder: _texts(folder, captions, text, length))
    return Cached(source, images, texts, tokens)


Shapes = dict[str, list[int]]


def _has(folder: Path, name: str) -> bool:
    """Whether a folder was finished and holds this array."""
    return (folder / COMPLETE).is_file() and (folder / f"{name}.npy").is_file()


def _keep(folder: Path, texts: list[str], write: Callable[[Path], Shapes]) -> None:
    """The folder with what `write` puts into it, whole or not at all."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    summary = {"arrays": write(partial), "texts": texts}
    atomic_write_text(partial / COMPLETE, json.dumps(summary, ensure_ascii=False))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def encoder(folder: str | Path) -> tuple[Any, Any]:
    """(model, variables) of a published encoder, without the classifier that it may end in."""
    found = from_tensors(read_config(folder), open_tensors(folder))
    section = found.family.model(found.config)
    fields = image_fields(folder)[1] if "vision" in section else {}
    if "vision" in section:
        section["vision"] = {k: v for k, v in section["vision"].items() if k != "classes"}
    return models.build(section | fields), found.variables


def _images(
    folder: Path, source: Source, vision: str, reader: Mapping[str, Any], tokens: bool
) -> Shapes:
    """pooled.npy, sound.npy and perhaps tokens.npy; their shapes by name."""
    model, variables = encoder(vision)

    @jax.jit
    def encode(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        found = model.apply(variables, images, method="encode_image")
        vectors = found.tokens.mean(1) if found.pooled is None else found.pooled
        return {"pooled": vectors} | ({"tokens": found.tokens.astype("float16")} if tokens else {})

    loader = Loader(source, kwargs.call(InputReader, reader, "image"), {})
    arrays: dict[str, Any] = {}
    sound = np.zeros(len(source), bool)
    for batch in eval_batches(loader, batch_size=min(BATCH, len(source))):
        found = jax.device_get(encode(variables, batch["image"]))
        kept = np.flatnonzero(batch["valid"])
        where = batch["index"][kept]
        sound[where] = True
        for name, rows in found.items():
            if name not in arrays:
                shape, path = (len(source), *rows.shape[1:]), folder / f"{name}.npy"
                arrays[name] = np.lib.format.open_memmap(path, "w+", rows.dtype, shape)
            arrays[name][where] = rows[kept]
    np.save(folder / "sound.npy", sound)
    for array in arrays.values():
        array.flush()
    return {name: list(array.shape) for name, array in (arrays | {"sound": sound}).items()}


def _texts(folder: Path, texts: list[str], text: str, length: int) -> Shapes:
    """texts.npy, a row for each text; its shape by name."""
    model, variables = encoder(text)
    tokenizer = read_tokenizer(text)

    @jax.jit
    def encode(variables: Any, inputs: Mapping[str, jax.Array]) -> jax.Array:
        return model.apply(variables, inputs, method="encode_text").pooled

    found = []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        rows = [encoder_text(tokenizer, t, length) for t in (part + part[-1:] * BATCH)[:BATCH]]
        found.append(np.asarray(encode(variables, stack(rows)))[: len(part)])
    whole = np.concatenate(found) if found else np.zeros((0, 1), np.float32)
    np.save(folder / "texts.npy", whole)
    return {"texts": list(whole.shape)}
