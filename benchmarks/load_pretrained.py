"""Host memory that loading a checkpoint folder takes, as a multiple of the folder's size.

    python -m benchmarks.load_pretrained [--gigabytes 1] [--json]

Writes a Llama-type folder with random float32 tensors, loads it in a process of its own and
compares that process's peak resident memory with what it had after its imports.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vlm_jax import trees
from vlm_jax.weights.convert import our_path
from vlm_jax.weights.families.llama import LLAMA
from vlm_jax.weights.pretrained import read_folder, shapes_of, write_tensors


def write_folder(folder: Path, gigabytes: float) -> int:
    """A folder of about this many GB with 1 GB shards; returns its bytes."""
    config = dict(model_type="llama", vocab_size=8000, hidden_size=1024, intermediate_size=4096)
    config |= dict(num_attention_heads=8, tie_word_embeddings=True)
    layer = 4 * (4 * 1024**2 + 3 * 1024 * 4096)
    config["num_hidden_layers"] = max(1, round((gigabytes * 1e9 - 8000 * 4096) / layer))
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    _, shapes = shapes_of(LLAMA, config)
    flat = {path: leaf.shape for path, leaf in trees.flatten(shapes).items()}

    def tensors():
        for rule in LLAMA.rules(config):
            shape = flat[our_path(rule.paths[0])]
            names = [rule.theirs.replace("{}", str(i)) for i in range(shape[0])]
            for name in names if rule.stacked else [rule.theirs]:
                row = shape[1:] if rule.stacked else shape
                yield name, rule.form.write(rng.standard_normal(row, np.float32)).copy()

    write_tensors(tensors(), folder, most=10**9)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def load(folder: str) -> dict[str, float]:
    """Load in this process; peak memory before and after, and seconds."""
    import jax

    jax.devices()
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before, start = peak(), time.perf_counter()
    found = read_folder(folder)
    jax.block_until_ready(found.variables)
    return {"before": before, "after": peak(), "seconds": time.perf_counter() - start}


def main() -> None:
    """Print size, memory and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(load(given.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        size = write_folder(Path(name), given.gigabytes)
        command = [sys.executable, "-m", "benchmarks.load_pretrained", "--folder", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    used = measured["after"] - measured["before"]
    report = {
        "folder_gb": round(size / 1e9, 3),
        "memory_gb": round(used / 1e9, 3),
        "ratio": round(used / size, 3),
        "seconds": round(measured["seconds"], 2),
    }
    if not given.json:
        print("folder {folder_gb} GB, memory {memory_gb} GB, ratio {ratio}".format(**report))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
