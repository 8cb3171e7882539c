"""--mode=index and --mode=search of launch.py: build a memory out of a run, and ask it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax import experiment, processes, workdir
from vlm_jax.data import in_memory
from vlm_jax.memory import SEARCHES, sheet
from vlm_jax.memory.build import build
from vlm_jax.memory.encoders import Encoder, make_encoder, published
from vlm_jax.memory.neighbours import plain
from vlm_jax.memory.store import Memory

FOLDER, SHEET = "memory", "search.png"
"""Where a run's memory and the last contact sheet lie in its workdir."""


def index(config: Any, folder: str, options: Mapping[str, Any]) -> int:
    """Embed --data=FOLDER, or what the run was trained on, into WORKDIR/memory or --memory; the
    last line is one JSON object. --of=text remembers captions by their own vectors.
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
    """The entries nearest to --text or --image as one JSON object, and a contact sheet of them."""
    text, image = options.get("text"), options.get("image")
    if (text is None) == (image is None):
        raise ValueError("--mode=search takes --text=... or --image=PATH, one of the two")
    memory = Memory(options.get("memory") or Path(folder) / FOLDER)
    maker = str(memory.about["encoder"])
    encoder = make_encoder(maker if published(maker) else folder)
    memory.require(encoder.fingerprint, f"the run {folder}")
    query = encoder.texts([text or ""]) if image is None else embed_picture(encoder, image)[None]
    kind, _, name = (options.get("search") or "exact").partition(":")
    finder = SEARCHES[kind](memory, **({"kind": name} if name else {}))
    k = options.get("k") or min(10, len(memory))
    hits = ranked(memory, *(column[0] for column in finder(query, k)))
    result = {"text": text} if image is None else {"image": image}
    if processes.is_first():
        path = Path(folder) / SHEET
        sheet.save(_sheet(memory, text or "", image, hits), path)
        print(json.dumps(result | {"sheet": str(path), "hits": hits}, ensure_ascii=False))
    return 0


def embed_picture(encoder: Encoder, image: Any) -> np.ndarray:
    """f32[width] of one picture; DataError if it cannot be read."""
    from vlm_jax.data.images import decode

    found = dict(encoder.images(in_memory.pictures([decode(image)])))
    return found[0]


def ranked(memory: Memory, scores: np.ndarray, rows: np.ndarray) -> list[dict[str, Any]]:
    """One dictionary per hit that was found, best first: rank from 1, score, row and its Entry."""
    found = zip(scores.tolist(), rows.tolist(), strict=True)
    return [
        {"rank": number, "score": round(score, 6), "row": row, **memory.entry(row)}
        for number, (score, row) in enumerate(found, start=1)
        if row >= 0
    ]


def _sheet(memory: Memory, text: str, image: Any, hits: list[dict[str, Any]]) -> Any:
    """The contact sheet; pictures come from their files or from the source remembered, if any."""
    source = None
    if memory.about["data"] and any("image" not in hit for hit in hits):
        source = experiment.source(memory.about["data"], f"{memory.folder}")
    tiles = []
    for hit in hits:
        shown = hit.get("image") if source is None else source[hit["position"]]["image"]
        tiles.append(sheet.Tile(shown, f"{hit['rank']}. {hit['score']:.3f} {_first(hit)}"))
    return sheet.contact_sheet(sheet.Tile(image, text or str(image)), tiles)


def _first(hit: Mapping[str, Any]) -> str:
    return hit["texts"][0] if hit["texts"] else hit["id"]
