"""--mode=index and --mode=search of launch.py: build a memory out of a run, and ask it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax import experiment, processes, workdir
from vlm_jax.data import in_memory
from vlm_jax.data.audio import as_audio, picture
from vlm_jax.data.schema import DataError
from vlm_jax.memory import SEARCHES, sheet
from vlm_jax.memory.build import build
from vlm_jax.memory.encoders import Encoder, Trained, make_encoder, published
from vlm_jax.memory.neighbours import plain
from vlm_jax.memory.store import Memory

FOLDER, SHEET = "memory", "search.png"
"""Where a run's memory and the last contact sheet lie in its workdir."""


def index(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Embed --data=FOLDER, or what the run was trained on, into WORKDIR/memory or --memory; the
    last line is one JSON object. --of=text remembers captions by their own vectors, --of=audio
    sounds.
    """
    stored = workdir.read_config(folder)
    data = stored["data"]["train"]
    if options.get("data"):
        data = {"name": "jsonl", "path": str(Path(options["data"]).expanduser().absolute())}
    source = experiment.source(data, "--data")
    place = Path(options.get("memory") or Path(folder) / FOLDER)
    of = options.get("of") or "image"
    memory = build(make_encoder(folder), source, place, data=plain(data), of=of)
    report = {"memory": str(place), "rows": len(memory), "width": memory.width}
    print(json.dumps(report | {"fingerprint": memory.fingerprint}), flush=True)
    return 0


def search(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """The entries nearest to --text, --image or --audio as one JSON object, and a contact sheet of
    them.
    """
    asked = {kind: options[kind] for kind in QUERIES if options.get(kind) is not None}
    if len(asked) != 1:
        raise ValueError(
            "--mode=search takes --text=... or --image=PATH, one of the two, or --audio=PATH alone"
        )
    ((kind, given),) = asked.items()
    memory = Memory(options.get("memory") or Path(folder) / FOLDER)
    maker = str(memory.about["encoder"])
    encoder = make_encoder(maker if published(maker) else folder)
    memory.require(encoder.fingerprint, f"the run {folder}")
    query = QUERIES[kind](encoder, given)[None]
    backend, _, name = (options.get("search") or "exact").partition(":")
    finder = SEARCHES[backend](memory, **({"kind": name} if name else {}))
    k = options.get("k") or min(10, len(memory))
    hits = ranked(memory, *(column[0] for column in finder(query, k)))
    if processes.is_first():
        path = Path(folder) / SHEET
        sheet.save(_sheet(memory, encoder, kind, given, hits), path)
        print(json.dumps({**asked, "sheet": str(path), "hits": hits}, ensure_ascii=False))
    return 0


def embed_picture(encoder: Encoder, image: Any) -> np.ndarray:
    """f32[width] of one picture; DataError if it cannot be read."""
    from vlm_jax.data.images import decode

    found = dict(encoder.images(in_memory.pictures([decode(image)])))
    return found[0]


def embed_sound(encoder: Encoder, audio: Any) -> np.ndarray:
    """f32[width] of one sound; DataError if it cannot be read."""
    found = dict(encoder.sounds(in_memory.sounds([audio])))
    if not found:
        raise DataError(f"{audio} cannot be read as a sound")
    return found[0]


QUERIES = {
    "text": lambda encoder, text: encoder.texts([text])[0],
    "image": embed_picture,
    "audio": embed_sound,
}
"""What a memory can be searched for: functions of an encoder and what is given, to f32[width]."""


def ranked(memory: Memory, scores: np.ndarray, rows: np.ndarray) -> list[dict[str, Any]]:
    """One dictionary per hit that was found, best first: rank from 1, score, row and its Entry."""
    found = zip(scores.tolist(), rows.tolist(), strict=True)
    return [
        {"rank": number, "score": round(score, 6), "row": row, **memory.entry(row)}
        for number, (score, row) in enumerate(found, start=1)
        if row >= 0
    ]


def _sheet(
    memory: Memory, encoder: Encoder, kind: str, given: Any, hits: list[dict[str, Any]]
) -> Any:
    """The contact sheet: pictures, or of sounds their spectrograms, which come from their files or
    from the source remembered, if any.
    """
    seen = "audio" if memory.about.get("of") == "audio" else "image"
    source = None
    if memory.about["data"] and any(seen not in hit for hit in hits):
        source = experiment.source(memory.about["data"], f"{memory.folder}")
    tiles = []
    for hit in hits:
        shown = hit.get(seen) if source is None else source[hit["position"]].get(seen)
        text = f"{hit['rank']}. {hit['score']:.3f} {_first(hit)}"
        tiles.append(sheet.Tile(_shown(encoder, seen, shown), text))
    query = sheet.Tile(None if kind == "text" else _shown(encoder, kind, given), str(given))
    return sheet.contact_sheet(query, tiles)


def _shown(encoder: Encoder, kind: str, given: Any) -> Any:
    """A picture, or the spectrogram of as much of a sound as the model listens to."""
    if kind != "audio" or given is None:
        return given
    listen = encoder.model.run.experiment.read.listen if isinstance(encoder, Trained) else None
    seconds = {} if listen is None else {"seconds": listen.seconds}
    return lambda: picture(as_audio(given), **seconds)


def _first(hit: Mapping[str, Any]) -> str:
    return hit["texts"][0] if hit["texts"] else hit["id"]
