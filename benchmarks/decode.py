"""Captions per second against transformers: the same random weights, in turn, the same tokens.

    python -m benchmarks.decode [--models git_base,blip_base] [--rounds 3] [--json]

GIT-base and BLIP-base write 20 tokens for each of 8 pictures in float32, greedily and with 4 beams;
tokens per second count the 8 x 20 that are returned. The tokens of both sides are compared, and
compiling is timed apart. A ratio is our tokens per second by theirs, so higher is better. Then
where our time goes, the image and the prompt or the steps, and how far a step is from its bound:
the slower of reading the decoder's weights at the bandwidth of memory and of multiplying by them
at the speed of a large matrix product, both measured here. With --json the last line is one JSON
object {"git_base": {"greedy": {"ratio", "ours", "peer"}, "beam4": {...}}, "blip_base": {...}}.
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax import trees
from vlm_jax.layers.apart import with_apart
from vlm_jax.weights.pretrained import Pretrained, read_folder

BATCH, TOKENS = 8, 20
KINDS = {"greedy": 1, "beam4": 4}


def peers(names: list[str]) -> dict[str, Any]:
    """transformers' networks with random weights; exits with a remedy where it is missing."""
    try:
        import torch
        import transformers

        from tests import torchvision_operators  # noqa: F401  before transformers imports it
    except ImportError as error:
        sys.exit(f"{error}\nThe other side is missing; install it: pip install torch transformers")
    torch.manual_seed(0)
    kinds: dict[str, tuple[Any, Any]] = {
        "git_base": (transformers.GitConfig, transformers.GitForCausalLM),
        "blip_base": (transformers.BlipConfig, transformers.BlipForConditionalGeneration),
    }
    made = {}
    for name in names:
        config, network = kinds[name]
        made[name] = network(config(**({"image_size": 384} if name == "blip_base" else {}))).eval()
        for parameter in made[name].parameters():  # far from ties, which rounding would decide
            parameter.data += 0.02 * torch.randn_like(parameter)
    return made


def flags(beams: int, tokens: int) -> dict[str, Any]:
    """What both sides' `generate` is told: exactly `tokens` tokens, no early end."""
    options: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    return options | {"num_beams": beams, "do_sample": False}


def our_program(found: Pretrained, beams: int, tokens: int) -> Callable:
    """Our `generate` as one compiled function of (variables, inputs)."""
    call, told = found.family.calls["generate"], found.special_tokens() | flags(beams, tokens)

    @jax.jit
    def program(variables: Any, given: dict[str, jax.Array]) -> jax.Array:
        apply = lambda *args, **options: found.model.apply(variables, *args, **options)
        return call(apply, given, told)["tokens"]

    return program


def timed(function: Callable, *arguments: Any) -> tuple[float, Any]:
    """(seconds, result) of one call."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, result


def bounds() -> tuple[float, float]:
    """(bytes per second of memory, FLOP per second of matrix products), measured on this device."""
    size, numbers = 2048, jnp.ones(2**27, jnp.float32)
    square = jnp.ones((size, size), jnp.float32)
    read, multiply = jax.jit(jnp.sum), jax.jit(jnp.matmul)
    best = lambda function, *args: min(timed(function, *args)[0] for _ in range(5))
    return numbers.nbytes / best(read, numbers), 2 * size**3 / best(multiply, square, square)


def compare(peer: Any, found: Pretrained, beams: int, rounds: int) -> dict[str, float]:
    """Seconds of both sides, in turn; our compile seconds; seconds for a single token."""
    size = peer.config.vision_config.image_size
    pixels = np.random.default_rng(1).normal(size=(BATCH, 3, size, size)).astype(np.float32)
    given = {"pixel_values": jnp.asarray(pixels)}
    import torch

    @torch.no_grad()
    def theirs():
        return peer.generate(pixel_values=torch.from_numpy(pixels), **flags(beams, TOKENS))

    variables = with_apart(found.variables)  # as whoever writes much has them
    ours = functools.partial(our_program(found, beams, TOKENS), variables)
    one = functools.partial(our_program(found, beams, 1), variables)
    first, tokens = timed(ours, given)
    timed(one, given)
    _, expected = timed(theirs)
    same = np.mean(np.asarray(tokens)[:, -TOKENS:] == expected.numpy()[:, -TOKENS:])
    pairs = [(timed(ours, given)[0], timed(theirs)[0], timed(one, given)[0]) for _ in range(rounds)]
    own, other, single = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b, _ in pairs)
    return {
        "ours": BATCH * TOKENS / own,
        "peer": BATCH * TOKENS / other,
        "ratio": ratio,
        "compile": first - own,
        "first_token": single,
        "step": (own - single) / (TOKENS - 1),
        "same_tokens": float(same),
    }


def explain(found: Pretrained, beams: int, measured: dict[str, float], limits: Any) -> str:
    """Where the time of one run goes, and the bound of a step."""
    bandwidth, peak = limits
    decoder = found.variables["params"]["decoder"]
    table = trees.count_parameters(decoder["embed"]) if found.config.get("vision_config") else 0
    read = trees.count_parameters(decoder) - table
    bound = max(read * 4 / bandwidth, 2 * read * BATCH * beams / peak)
    reading = measured["first_token"]
    return (
        f"  image and prompt {reading * 1e3:.0f} ms, each of {TOKENS - 1} steps "
        f"{measured['step'] * 1e3:.1f} ms; bound of a step {bound * 1e3:.1f} ms "
        f"({read * 4 / 1e6:.0f} MB of weights, {BATCH * beams} rows): "
        f"{bound / measured['step']:.0%} reached; compiling {measured['compile']:.1f} s"
    )


def main() -> None:
    """Run both sides and print tokens per second, ratios and where the time goes."""
    parser = argparse.ArgumentParser(description="Generation against transformers.")
    parser.add_argument("--models", default="git_base,blip_base")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    limits, report = bounds(), {}
    print(f"memory {limits[0] / 1e9:.1f} GB/s, matrix products {limits[1] / 1e9:.0f} GFLOP/s")
    for name, peer in peers(options.models.split(",")).items():
        with tempfile.TemporaryDirectory() as folder:
            peer.save_pretrained(folder)
            found = read_folder(folder)
        report[name] = {}
        for kind, beams in KINDS.items():
            measured = compare(peer, found, beams, options.rounds)
            kept = ("ratio", "ours", "peer", "same_tokens")
            report[name][kind] = {key: round(measured[key], 3) for key in kept}
            print(
                f"{name} {kind}: {measured['ours']:.1f} tokens/s, transformers "
                f"{measured['peer']:.1f}: {measured['ratio']:.2f} times; "
                f"{measured['same_tokens']:.0%} of the tokens equal",
                flush=True,
            )
            print(explain(found, beams, measured, limits), flush=True)
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
