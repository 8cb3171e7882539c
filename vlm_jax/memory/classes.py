"""What an image classifier knows, as a memory: its classes are the entries, and the rows of its
last matrix their vectors. The entries nearest to a picture's features are then its likeliest
classes (but for the length of the rows and the biases, which differ little).

    python -m vlm_jax.memory.classes --memory=runs/demo-photo/classes

makes one of the kit's EfficientNet-Lite0 and the names of ImageNet's classes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm_jax.data import kit
from vlm_jax.data.schema import DataError
from vlm_jax.memory.encoders import Published
from vlm_jax.memory.store import Entry, Memory, write
from vlm_jax.weights.folder import open_tensors, read_config
from vlm_jax.weights.pretrained import from_tensors


def class_memory(classifier: str | Path, names: Sequence[str], folder: str | Path) -> Memory:
    """A memory in `folder` with an entry for each class; one that is there already is opened.

    classifier: a published checkpoint's folder. names: of its classes, in their order. DataError if
    it has no classifier, or one for another number of classes.
    """
    found = from_tensors(read_config(classifier), open_tensors(classifier))
    head = found.variables["params"]["vision"].get("head")
    if head is None:
        raise DataError(f"{classifier} has no classifier, so it has no classes to remember")
    rows = np.asarray(head["kernel"], np.float32).T
    if len(rows) != len(names):
        raise DataError(
            f"{classifier} tells {len(rows)} classes apart, but {len(names)} have names"
        )
    encoder = Published(classifier)
    about = {"fingerprint": encoder.fingerprint, "encoder": encoder.name, "of": "class", "data": {}}
    entries: list[Entry] = [{"id": f"class {i}", "texts": [name]} for i, name in enumerate(names)]
    return write(folder, about, rows, entries)


def imagenet(folder: str | Path) -> Memory:
    """The memory of the kit's classifier. DataError, naming the command, without the kit."""
    names = json.loads((kit.require("imagenet_names") / "names.json").read_text("utf-8"))
    return class_memory(kit.require("efficientnet_lite0"), names, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 1 after an error message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--memory", required=True, help="the folder to write")
    try:
        memory = imagenet(parser.parse_args(arguments).memory)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"memory": str(memory.folder), "rows": len(memory), "width": memory.width}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
