"""Are pictures drawn from texts right? Shares of prompts, for seen and held-out pairs.

    python -m benchmarks.drawing runs/dit [--judge runs/quickstart] [--examples 64] [--json]

Prompts of one object, of two in a relation, and whole captions of scenes, each for (colour, shape)
pairs that training shows and for those that it does not. A picture is right if a parser of its
pixels finds the objects of the prompt in their relation and no others. Beside the run: the training
picture whose caption shares most words with the prompt; the run's pictures judged by another
prompt; true pictures of the captions. With a judge, a run with a vision encoder (not trained on
what is judged): the Frechet distance of its features of the pictures from those of other true
pictures, and if it captions, how often its caption names just what the prompt does. Intervals are
95 % bootstrap intervals over prompts, that of the Frechet distance a jackknife's. With --json the
last line is one JSON object.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import vlm_jax
from vlm_jax import metrics
from vlm_jax.data import in_memory
from vlm_jax.data.scene_captions import parse_caption
from vlm_jax.data.scene_graph import HELD_OUT
from vlm_jax.data.scene_prompts import (
    SEEN,
    Judged,
    Wanted,
    judge,
    most_alike,
    of_scene,
    single,
    two_related,
)
from vlm_jax.data.scenes import Scenes
from vlm_jax.memory.encoders import Trained
from vlm_jax.metrics.frechet import frechet_score

Rows = dict[str, np.ndarray]
"""Who drew to pictures u8[n, S, S, 3]."""


def scenes_of(model: Any) -> Callable[..., Scenes]:
    """The scenes that a run draws: Scenes of its size and paper."""
    own = model.run.experiment.config["data"]["train"]
    kept = {name: own[name] for name in ("size", "noise", "paper") if name in own}
    return partial(Scenes, **kept, questions=0)


def prompts(count: int) -> dict[str, list[Wanted]]:
    """`count` of each kind."""
    found = {}
    for name, pairs, split in (("seen", SEEN, "test"), ("held out", sorted(HELD_OUT), "test_comp")):
        found[f"{name}, one"] = single(pairs, count)
        found[f"{name}, two"] = two_related(pairs, count)
        found[f"{name}, caption"] = [of_scene(e) for e in Scenes(split, length=count)]
    return found


def retrieved(source: Scenes, wanted: Sequence[Wanted]) -> np.ndarray:
    """The pictures of training scenes whose captions are most like the prompts."""
    known = [(text, example) for example in source for text in example["captions"]]
    best = most_alike([one.text for one in wanted], [text for text, _ in known])
    return np.stack([known[number][1]["image"]() for number in best])


def drawn(model: Any, wanted: Sequence[Wanted], options: Mapping[str, Any]) -> np.ndarray:
    """A picture of each prompt."""
    task = next(t for t in model.run.experiment.tasks.values() if hasattr(t, "draw"))
    return task.draw(model.run, [one.text for one in wanted], **options)


def pictures_of(source: Scenes) -> np.ndarray:
    """All of them, u8[n, S, S, 3]."""
    return np.stack([example["image"]() for example in source])


def shares(pictures: np.ndarray, wanted: Sequence[Wanted]) -> dict[str, metrics.Score]:
    """Of each field of `Judged`."""
    verdicts = np.array([judge(*pair) for pair in zip(pictures, wanted, strict=True)], float)
    return metrics.score(
        [metrics.mean_of(name, verdicts[:, i]) for i, name in enumerate(Judged._fields)]
    )


def named(model: Any, pictures: np.ndarray, wanted: Sequence[Wanted]) -> dict[str, metrics.Score]:
    """How often the judge's caption of a picture names the pairs of the prompt and no others."""
    captions = model.caption(list(pictures))
    right = [
        parse_caption(text) == set(one.objects) for text, one in zip(captions, wanted, strict=True)
    ]
    return metrics.score([metrics.mean_of("captioned", np.array(right, float))])


def features(model: Any, pictures: np.ndarray) -> np.ndarray:
    """Of the judge's vision encoder, f32[n, D]."""
    source = in_memory.pictures(list(pictures))
    return np.stack([x for _, x in Trained(model, "").images(source)])


def rows_of(model: Any, kind: str, wanted: Sequence[Wanted], given: Any) -> Rows:
    """Everybody's pictures of one kind of prompt."""
    scenes = scenes_of(model)
    names = ("seed", "guidance", "steps", "method", "temperature", "choice_temperature")
    chosen = {name: vars(given)[name] for name in names}
    options = {key: value for key, value in chosen.items() if value is not None}
    rows = {"drawn": drawn(model, wanted, options)}
    rows["retrieved"] = retrieved(scenes("train", length=4000), wanted)
    if kind.endswith("caption"):
        split = "test" if kind.startswith("seen") else "test_comp"
        rows["true"] = pictures_of(scenes(split, length=len(wanted)))
    return rows


def report(name: str, found: Mapping[str, metrics.Score]) -> None:
    """One line."""
    values = "  ".join(
        f"{key} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
        for key, score in found.items()
    )
    print(f"  {name:16} {values}", flush=True)


def main() -> None:
    """Print a table for each kind of prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--judge")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--guidance", type=float, help="towards the text; as the config says, or 3")
    parser.add_argument("--steps", type=int, help="of a flow, or rounds of parallel decoding")
    parser.add_argument("--method", help='of a flow: "heun" or "euler"')
    parser.add_argument("--temperature", type=float, help="of tokens that are drawn; 1")
    parser.add_argument(
        "--choice-temperature", type=float, help="of which guesses of a round stay; 4.5"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model, tables = vlm_jax.load(given.run), {}
    other = vlm_jax.load(given.judge) if given.judge else None
    reference = None
    if other is not None:
        reference = features(other, pictures_of(scenes_of(model)("val", length=1000)))
    for kind, wanted in prompts(given.examples).items():
        print(f"{kind}, n = {len(wanted)}, such as {wanted[0].text!r}")
        rows, tables[kind] = rows_of(model, kind, wanted, given), {}
        for name, pictures in rows.items():
            found = shares(pictures, wanted)
            if other is not None and "captioning" in other.run.experiment.tasks:
                found |= named(other, pictures, wanted)
            if reference is not None and kind.endswith("caption"):
                found["Frechet distance"] = frechet_score(features(other, pictures), reference)
            report(name, found)
            tables[kind][name] = found
        turned = [*wanted[1:], wanted[0]]
        tables[kind]["other prompt"] = shares(rows["drawn"], turned)
        report("other prompt", tables[kind]["other prompt"])
    if given.json:
        as_dicts = {
            k: {r: {m: s._asdict() for m, s in f.items()} for r, f in t.items()}
            for k, t in tables.items()
        }
        print(json.dumps(as_dicts))


if __name__ == "__main__":
    main()
