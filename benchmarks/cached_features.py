"""A training step of configs/retrieval/lit_kit.py on cached features, against the same step with
the encoders in it.

    python -m vlm_jax.data.prepare kit
    python -m vlm_jax.data.prepare emoji --size 224
    python -m benchmarks.cached_features [--batch 32] [--steps 3] [--json]

Times are those of reading a batch and computing the step, the median of `steps` after the first.
"""

import argparse
import json
import time
from typing import Any

import jax
import numpy as np

from configs.retrieval import lit_kit
from vlm_jax import experiment, sharding, workdir
from vlm_jax.data import pipeline
from vlm_jax.program import make_program


def seconds(setup: Any, loader: pipeline.Loader, batch: int, steps: int) -> float:
    """The median time of a step."""
    mesh = sharding.make_mesh()
    example = pipeline.stack([loader.pictures()(0)] * sharding.batch_shards(mesh))
    program = make_program(setup, mesh, example, len(loader.source))
    found = []
    with jax.set_mesh(mesh):
        state = program.jit_create()()
        update = program.jit_update()
        for step in range(steps + 1):
            start = time.perf_counter()
            rows = [loader(step * batch + row) for row in range(batch)]
            state, losses = update(state, sharding.shard_batch(mesh, pipeline.stack(rows)))
            jax.block_until_ready((state, losses))
            found.append(time.perf_counter() - start)
    return float(np.median(found[1:]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = workdir.to_json(lit_kit.get_config())
    config["batch_size"] = options.batch
    source = experiment.source(config["data"]["train"], "config.data.train")
    setup = experiment.build(config, None, source)
    loader = pipeline.Loader(source, setup.read, setup.preprocess)
    times = {
        name: seconds(setup, which, options.batch, options.steps)
        for name, which in (("cached", loader), ("encoders", loader.pictures()))
    }
    times["ratio"] = times["encoders"] / times["cached"]
    if options.json:
        print(json.dumps(times))
        return
    print(f"batch of {options.batch}: {times['cached']:.3f} s on cached features, ", end="")
    print(f"{times['encoders']:.3f} s with the encoders: {times['ratio']:.1f} times faster")


if __name__ == "__main__":
    main()
