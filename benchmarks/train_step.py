"""One whole training step against transformers on torch: forward, backward, AdamW, in float32.

    python -m benchmarks.train_step [--models clip_b32,resnet50,paligemma] [--rounds 5] [--json]

Each side lives in a process of its own and they take steps in turn, so that whatever else the
machine does falls on both. A ratio is our examples per second by theirs, so higher is better;
`bound` is the share of the time of a step that its matrix products and convolutions would take
alone, at the speed of a large float32 matrix product measured between the steps (operations are
counted from our program, three matrix products for each of the forward pass). Memory is the peak of
each process above what its imports take, or of the accelerator, if there is one.

    clip_b32     CLIP ViT-B/32 with its text tower, 16 pictures with 77 tokens each
    resnet50     ResNet-50, 16 pictures of 224 pixels, 1000 classes
    paligemma    PaliGemma's parts, 4 + 4 layers of half the width, 65,536 words, 4 pictures with
                 256 image tokens and 64 of text

With --json the last line is one JSON object {"clip_b32": {"ratio", "bound", "ours", "peer",
"memory_ratio", ...}, ...}.
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

BATCHES = {"clip_b32": 16, "resnet50": 16, "paligemma": 4}
SIDE, RATE = 4096, 1e-5
REMAT = "dots_without_batch"
"""Elementwise results are computed again: cheaper than to write and read them, here as on a TPU."""

VISION = dict(hidden_size=576, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2152)
VISION |= dict(patch_size=14, image_size=224, vision_use_head=False)
LANGUAGE = dict(model_type="gemma", vocab_size=65_536, hidden_size=1024, num_hidden_layers=4)
LANGUAGE |= dict(intermediate_size=8192, num_attention_heads=4, num_key_value_heads=1, head_dim=256)
IMAGE_TOKENS, TEXT_TOKENS = 256, 64


# --- our side -------------------------------------------------------------------------------------
def our_config(name: str) -> dict[str, Any]:
    """The config of a model; the data is the built-in one."""
    from configs import common
    from configs.retrieval import clip

    scenes = common.scenes("train", length=64)
    config: dict[str, Any] = dict(
        batch_size=BATCHES[name],
        total_steps=1000,
        optimizer=dict(name="adamw", learning_rate=RATE, weight_decay=0.01),
        data=dict(train=scenes, image=dict(size=224), tokenizer=dict(name="word", examples=64)),
    )
    if name == "clip_b32":
        model, tasks = clip.get_config().model.to_dict(), {"retrieval": {"length": 77}}
        for part in ("vision", "text"):
            model[part]["remat"] = REMAT
    elif name == "resnet50":
        vision = dict(name="resnet", depth=50, frozen_statistics=False)
        model = dict(vision=vision, classify=dict(classes=1000)) | common.IMAGENET_STATISTICS
        tasks = {"classification": {"labels": [f"class {number}" for number in range(1000)]}}
    else:
        published = dict(vision_config=VISION, text_config=LANGUAGE, image_token_index=1)
        model = common.published("paligemma", published | dict(projection_dim=1024))
        model["vision"]["remat"] = model["decoder"]["remat"] = REMAT
        template = "{[UNK]*" + str(IMAGE_TOKENS) + "}{bos}caption en\n"
        length = IMAGE_TOKENS + TEXT_TOKENS
        tasks = {"captioning": {"length": length, "template": template}}
    return config | dict(model=model, tasks=tasks)


def our_side(name: str) -> tuple[Callable[[], None], float]:
    """(one step, operations of one step)."""
    import jax

    from vlm_jax import experiment, program, sharding
    from vlm_jax.data import pipeline
    from vlm_jax.plan.flops import count_flops

    config = our_config(name)
    source = experiment.source(config["data"]["train"], "config.data.train")
    setup = experiment.build(config, None, source)
    preprocess = dict(setup.preprocess)
    if name == "resnet50":
        classify = preprocess["classification"]
        labelled = lambda example, rng: classify({**example, "label": "class 7"}, rng)
        preprocess["classification"] = labelled
    example = pipeline.Loader(source, setup.read, preprocess, "raise")(0)
    rows = [example] * BATCHES[name]
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    made = program.make_program(setup, mesh, pipeline.stack(rows[:1]), len(source))
    with jax.set_mesh(mesh):
        batch = sharding.shard_batch(mesh, pipeline.stack(rows))
        operations = count_flops(made.update, made.shapes, batch)
        update = made.lower_update(jax.eval_shape(lambda: batch)).compile()
        release()
        state = made.jit_create()()

    def step() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, losses = update(state, batch)
        jax.block_until_ready((state, losses))

    return step, operations


def release() -> None:
    """Give back what compiling has freed, which glibc would keep."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def our_peak() -> float:
    """Operations per second of one large float32 matrix product."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((SIDE, SIDE))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    start = time.perf_counter()
    jax.block_until_ready(product(x))
    return 2 * SIDE**3 / (time.perf_counter() - start)


def device_peak() -> int | None:
    """Bytes at the peak, if this is an accelerator that tells."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


# --- their side -----------------------------------------------------------------------------------
def their_side(name: str) -> tuple[Callable[[], None], float]:
    """One step by transformers with torch's fused AdamW; 0."""
    import torch

    from tests import torchvision_operators  # noqa: F401  before transformers imports it

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, inputs = their_network(name)
    network = network.to(device).train()
    inputs = {key: value.to(device) for key, value in inputs.items()}
    options = dict(lr=RATE, weight_decay=0.01, fused=True)
    optimizer = torch.optim.AdamW(network.parameters(), **options)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        network(**inputs).loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step, 0.0


def their_network(name: str) -> tuple[Any, dict[str, Any]]:
    """A network with random weights and its inputs."""
    import torch
    import transformers as t

    rows = BATCHES[name]
    pixels = torch.randn(rows, 3, 224, 224)
    if name == "clip_b32":
        ids = torch.randint(1, 49_000, (rows, 77))
        given = dict(input_ids=ids, attention_mask=torch.ones_like(ids), return_loss=True)
        network = t.CLIPModel(t.CLIPConfig())
        forward = network.forward
        network.forward = lambda **tensors: forward(**tensors, return_loss=True)
        given.pop("return_loss")
        return network, given | dict(pixel_values=pixels)
    if name == "resnet50":
        network = t.ResNetForImageClassification(t.ResNetConfig(num_labels=1000))
        return network, dict(pixel_values=pixels, labels=torch.full((rows,), 7))
    config = t.PaliGemmaConfig(
        vision_config=dict(VISION, model_type="siglip_vision_model"),
        text_config=LANGUAGE,
        image_token_index=1,
        projection_dim=1024,
    )
    ids = torch.randint(2, 60_000, (rows, IMAGE_TOKENS + TEXT_TOKENS))
    ids[:, :IMAGE_TOKENS] = 1
    labels, kinds = ids.clone(), torch.zeros_like(ids)
    labels[:, : IMAGE_TOKENS + 4] = -100
    kinds[:, IMAGE_TOKENS + 4 :] = 1
    given = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    network = t.PaliGemmaForConditionalGeneration(config)
    return network, given | dict(token_type_ids=kinds, pixel_values=pixels)


# --- both -----------------------------------------------------------------------------------------
def resident(kind: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at the peak."""
    with open("/proc/self/status", encoding="ascii") as status:
        return int(re.findall(rf"{kind}:\s+(\d+) kB", status.read())[0]) * 1024


def work(side: str, name: str) -> None:
    """A side's process: answers each line of its input, "step", "peak" or "memory", by a number."""
    imports = {"ours": "jax, optax, flax.linen, tensorflow_datasets", "peer": "torch, transformers"}
    exec("import " + imports[side])  # memory is counted from here
    before = resident("VmRSS")
    step, operations = (our_side if side == "ours" else their_side)(name)
    for _ in range(2):
        step()
    print(f"READY {operations}", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        if line.strip() == "step":
            step()
            answer = time.perf_counter() - start
        elif line.strip() == "peak":
            answer = our_peak()
        else:
            answer = side_peak(side) or resident("VmHWM") - before
        print(f"READY {answer}", flush=True)


def side_peak(side: str) -> int | None:
    """Bytes at the peak on an accelerator, None on a CPU."""
    if side == "ours":
        return device_peak()
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


class Worker:
    """A side's process and what it says."""

    def __init__(self, side: str, name: str):
        command = [sys.executable, "-m", "benchmarks.train_step", "--side", side, "--models", name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin and self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout
        self.operations = self._answer()

    def ask(self, what: str) -> float:
        """The number that answers."""
        print(what, file=self.input, flush=True)
        return self._answer()

    def _answer(self) -> float:
        for line in self.output:
            if line.startswith("READY"):
                return float(line.split()[1])
        sys.exit(f"a side ended early, code {self.process.wait()}: see its message above")

    def end(self) -> None:
        """Close its input, which ends it."""
        self.input.close()
        self.process.wait()


def compare(name: str, rounds: int, peer: bool) -> dict[str, float]:
    """Both sides' steps in turn."""
    sides = {"ours": Worker("ours", name)} | ({"peer": Worker("peer", name)} if peer else {})
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    shares = []
    for _ in range(rounds):
        for side, worker in sides.items():
            seconds[side].append(worker.ask("step"))
        bound = sides["ours"].operations / sides["ours"].ask("peak")
        shares.append(bound / seconds["ours"][-1])
    memory = {side: worker.ask("memory") for side, worker in sides.items()}
    for worker in sides.values():
        worker.end()
    rates = {side: BATCHES[name] / statistics.median(times) for side, times in seconds.items()}
    found = {"bound": statistics.median(shares), "operations": sides["ours"].operations}
    found |= {side: rates[side] for side in sides}
    found |= {f"{side}_gib": memory[side] / 2**30 for side in sides}
    if peer:
        pairs = zip(seconds["peer"], seconds["ours"], strict=True)
        found["ratio"] = statistics.median(theirs / ours for theirs, ours in pairs)
        found["memory_ratio"] = memory["ours"] / memory["peer"]
    return found


def main() -> None:
    """Print examples per second, ratio, share of the bound and memory of each model."""
    parser = argparse.ArgumentParser(description="Training steps against transformers.")
    parser.add_argument("--models", default=",".join(BATCHES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without the other side")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        work(given.side, given.models)
        return
    report = {}
    for name in given.models.split(","):
        found = report[name] = compare(name, given.rounds, not given.alone)
        line = f"{name:10} {found['ours']:6.2f} examples/s, {found['ours_gib']:.2f} GiB, "
        line += f"{found['bound']:.0%} of the bound ({found['operations'] / 1e9:.0f} GFLOP)"
        if "ratio" in found:
            line += f"; torch {found['peer']:6.2f}, {found['peer_gib']:.2f} GiB; "
            line += f"ratio {found['ratio']:.2f}, memory {found['memory_ratio']:.2f}"
        print(line, flush=True)
    if given.json:
        print(json.dumps({name: _rounded(found) for name, found in report.items()}))


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.4g}") for key, value in found.items()}


if __name__ == "__main__":
    main()
