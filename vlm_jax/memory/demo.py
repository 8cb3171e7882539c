"""The last step of `make demo-photo`: a caption of any picture, and the neighbours it was written
from.

    python -m vlm_jax.memory.demo --image=cat.jpg --check
    python -m vlm_jax.memory.demo --image=cat.jpg --workdir=RUN --memory=CLASSES

RUN is one of configs/captioning/kit_smallcap.py, CLASSES the memory of `vlm_jax.memory.classes`.
Two JSON lines are printed, the caption with neighbours in the prompt and the one without any, and
the neighbours are drawn into MEMORY/../neighbours.png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_jax.data import images
from vlm_jax.data.schema import DataError

SHEET = "neighbours.png"


def caption(model: Any, image: str, memory: Any, encoder: Any, k: int) -> tuple[str, list[Any]]:
    """What a captioner with retrieved texts in its prompt writes about a picture, and the k entries
    of the memory that it was given, best first.
    """
    from vlm_jax import sharding
    from vlm_jax.data import in_memory
    from vlm_jax.memory import Exact
    from vlm_jax.memory.commands import embed_picture, ranked
    from vlm_jax.memory.neighbours import Retrieved

    shown = in_memory.pictures([image])
    source = Retrieved(shown, memory, encoder, k, own=True, keep=False)
    task = next(task for task in model.run.experiment.tasks.values() if hasattr(task, "prompt"))
    model.run.batch_size = sharding.batch_shards(model.run.mesh)
    written = model.run.write(source, task.query, task.length)[0]
    if not k:
        return written, []
    hits = Exact(memory)(embed_picture(encoder, image)[None], k)
    return written, ranked(memory, hits.scores[0], hits.rows[0])


def show(image: str, workdir: str, folder: str, k: int) -> dict[str, Any]:
    """Prints the captions, draws the neighbours, and returns what was printed first."""
    from vlm_jax import api
    from vlm_jax.memory import Memory, sheet
    from vlm_jax.memory.encoders import make_encoder

    model, memory = api.load(workdir), Memory(folder)
    encoder = make_encoder(memory.about["encoder"])
    written, hits = caption(model, image, memory, encoder, k)
    path = Path(folder).parent / SHEET
    tiles = [
        sheet.Tile(None, f"{hit['rank']}. {hit['texts'][0]} {hit['score']:.3f}") for hit in hits
    ]
    sheet.save(sheet.contact_sheet(sheet.Tile(image, written), tiles), path)
    near = [{"text": hit["texts"][0], "score": hit["score"]} for hit in hits]
    found = {"image": image, "caption": written, "neighbours": near, "sheet": str(path)}
    print(json.dumps(found, ensure_ascii=False), flush=True)
    alone, _ = caption(model, image, memory, encoder, 0)
    print(json.dumps({"image": image, "caption_without_neighbours": alone}), flush=True)
    return found


def check(image: str) -> str:
    """The path, once it is known to be a picture. DataError saying what is wrong with it."""
    usage = "make demo-photo IMAGE=path/to/picture.jpg"
    if not image:
        raise DataError(f"which picture? {usage}")
    if not Path(image).expanduser().is_file():
        raise DataError(f"there is no file {image}: {usage}")
    images.decode(Path(image).expanduser())
    return image


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 1 after an error message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--image", required=True)
    parser.add_argument("--check", action="store_true", help="only look whether it is a picture")
    parser.add_argument("--workdir", default="runs/demo-photo/captioner")
    parser.add_argument("--memory", default="runs/demo-photo/classes")
    parser.add_argument("--k", type=int, default=4, help="how many neighbours")
    given = parser.parse_args(arguments)
    try:
        check(given.image)
        if not given.check:
            show(given.image, given.workdir, given.memory, given.k)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
