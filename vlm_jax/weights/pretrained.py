"""`load_pretrained(folder)`: a published checkpoint as a model of ours; `export`: the way back."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from vlm_jax import kwargs, models, trees
from vlm_jax.models.heads import HEADS
from vlm_jax.models.vision_language import VisionLanguageModel
from vlm_jax.tokenizers import Tokenizer
from vlm_jax.weights import convert
from vlm_jax.weights.families import FAMILIES
from vlm_jax.weights.family import UNNAMED, Config, Family
from vlm_jax.weights.folder import (
    Tensors,
    WeightsError,
    copy_small_files,
    open_tensors,
    read_config,
    read_json,
)
from vlm_jax.weights.generation import UNSEEN, folder_flags

SAID_AGAIN = ("mm_token_type_ids", "token_type_ids")
"""Arguments that processors add to every call. One that does not read them may be given them if
they say what the token ids say, too: see `Pretrained._said_again`.
"""

PASSIVE: Mapping[str, tuple | None] = UNSEEN | dict(
    return_dict=None, return_loss=(False,), logits_to_keep=(0,)
)
"""Flags that no call needs to read, for these values (None: any) change nothing that is compared.
"""

SHARD_BYTES = 5 * 10**9
"""Most bytes of one .safetensors file that `write_tensors` makes."""


@dataclass(frozen=True)
class Pretrained:
    """A network from a folder.

    config: its config.json. variables: our parameters. generation: its generation_config.json.
    """

    family: Family
    config: Config
    model: VisionLanguageModel
    variables: Mapping[str, Any]
    generation: Config = field(default_factory=dict)

    def call(self, name: str, inputs: Mapping[str, Any], flags: Config | None = None) -> Any:
        """One of the reference's calls; KeyError for one that the family does not have, ValueError
        for an argument or a flag that the call does not read, or does not obey.
        """
        folder = self.generating() if name == "generate" else {}
        call, told = self.family.calls[name], _Told(folder | dict(flags or {}))
        self.family.agree(self.config, {key: np.asarray(value) for key, value in inputs.items()})

        def program(variables: Mapping, given: Mapping) -> dict[str, Any]:
            apply = lambda *args, **options: self.model.apply(variables, *args, **options)
            return call(apply, given, told)

        given = {key: jnp.asarray(value) for key, value in inputs.items()}
        traced = jax.jit(program).trace(self.variables, given)
        unread = sorted(_unread(traced.jaxpr.jaxpr, sorted(given)))
        unread = [key for key in unread if not self._said_again(key, inputs)]
        unread += sorted(key for key in set(flags or {}) - told.read if not passive(key, told[key]))
        if unread:
            raise ValueError(f"{name} does not read {', '.join(unread)}: leave it out")
        return traced.lower().compile()(self.variables, given)

    def _said_again(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether an argument is one of SAID_AGAIN, and the same everywhere, or 0 everywhere but at
        the tokens that stand for pictures.
        """
        if name not in SAID_AGAIN:
            return False
        types, ids = np.asarray(inputs[name]), np.asarray(inputs.get("input_ids", -1))
        tokens = (
            getattr(self.model.decoder, "image_token", None),
            self.config.get("video_token_id"),
        )
        pictures = np.isin(ids, [token for token in tokens if token is not None])
        return len(np.unique(types)) < 2 or (
            types.shape == ids.shape and bool(((types != 0) == pictures).all())
        )

    def generating(self) -> dict[str, Any]:
        """What the folder says about generated texts: special tokens, lengths, how to search."""
        found = {} if self.family.inner else folder_flags(self.generation, self.config)
        return found | self.special_tokens()

    def special_tokens(self) -> dict[str, Any]:
        """The ids that begin, end and fill generated texts, as far as the folder names them."""
        text = self.config.get("text_config") or {}
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
        names = (*names, "sep_token_id")
        found = {}
        for name in names:
            values = (part.get(name) for part in (self.generation, self.config, text))
            found[name] = next((value for value in values if value is not None), None)
        return {name: value for name, value in found.items() if value is not None}


class _Told:
    """Flags that know which of them were read: one by one, or all when they are copied."""

    def __init__(self, flags: Config):
        self._flags, self.read = dict(flags), set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._flags[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._flags else default

    def keys(self) -> Any:
        return self._flags.keys()

    def items(self) -> list[tuple[str, Any]]:
        return [(name, self[name]) for name in self._flags]


def passive(name: str, value: Any) -> bool:
    """Whether a flag with this value changes nothing."""
    return name in PASSIVE and (PASSIVE[name] is None or value in (PASSIVE[name] or ()))


def _unread(jaxpr: Any, names: Sequence[str]) -> set[str]:
    """Those of the last inputs of a program, which have these names, that nothing depends on."""
    used = {id(x) for equation in jaxpr.eqns for x in equation.invars}
    used |= {id(x) for x in jaxpr.outvars}
    own = zip(names, jaxpr.invars[-len(names) :], strict=True) if names else ()
    return {name for name, variable in own if id(variable) not in used}


def family_of(config: Config) -> Family:
    """The family of a config.json. WeightsError for a model type that is not here, or weights that
    were quantised.
    """
    kind = config.get("model_type")
    if kind is None and "architecture" in config:  # timm's config.json
        small = str(config["architecture"]).startswith("tf_efficientnet_lite")
        kind = "efficientnet_lite" if small else "torchvision"
    if kind not in FAMILIES:
        hint = kwargs.suggestion(str(kind), FAMILIES)
        raise WeightsError(
            f"config.json: model_type={kind!r} is not supported; {hint}"
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    if config.get("quantization_config"):
        method = dict(config["quantization_config"]).get("quant_method", "unknown")
        raise WeightsError(
            f"config.json: quantization_config (quant_method={method!r}) is not supported; take "
            "the folder with the weights as they were trained"
        )
    return FAMILIES[kind]


def shapes_of(family: Family, config: Config) -> tuple[VisionLanguageModel, Any]:
    """The model of a config.json and the shapes of its variables; nothing is computed."""
    model = models.build(family.model(config))
    batch, asks = family.example(config)
    shapes = jax.eval_shape(lambda k, b: model.init(k, b, asks), jax.random.key(0), batch)
    return model, shapes


def read_folder(
    folder: str | Path, *, dtype: Any = None, place: convert.Place | None = None
) -> Pretrained:
    """A folder's network with its weights.

    dtype: of the parameters (None: as stored). place: see `convert.read`. WeightsError says what is
    wrong with the folder.
    """
    found = from_tensors(read_config(folder), open_tensors(folder), dtype=dtype, place=place)
    return replace(found, generation=read_json(folder, "generation_config.json"))


def from_tensors(
    config: Config, tensors: Tensors | Any, *, dtype: Any = None, place: convert.Place | None = None
) -> Pretrained:
    """The network that a config.json describes, filled from tensors."""
    family = family_of(config)
    config = family.settle(config, tensors.shapes)
    model, shapes = shapes_of(family, config)
    ignored = family.ignored(config) if callable(family.ignored) else family.ignored
    variables = convert.read(
        tensors,
        shapes,
        family.rules(config),
        renames=family.renames,
        ignored=ignored,
        dtype=dtype,
        place=place,
    )
    return Pretrained(family, config, model, variables)


def with_image_token(family: Family, model: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.model with the id of the family's `image_word`, if it has one. ValueError if the
    tokenizer has no such token.
    """
    if family.image_word is None:
        return dict(model)
    token = tokenizer.id_of(family.image_word)
    return dict(model) | dict(decoder=dict(model["decoder"]) | dict(image_token=token))


def frames_of(model: Config) -> dict[str, int]:
    """What a model of videos asks of `data.pipeline.InputReader`: as many frames as it has vectors
    for. model: config.model.
    """
    vision = dict(model.get("vision") or {})
    return {"frames": vision["frames"]} if vision.get("name") == "frames" else {}


def changed_heads(family: Family, config: Config, model: VisionLanguageModel) -> list[str]:
    """The heads that a model has and its config.json's class has not, or the reverse, or for
    another number of classes.
    """
    if not config.get("architectures") and family.classes != UNNAMED:
        return []  # the tensors told the class
    theirs = models.build(family.model(config))
    heads = [f"{name}_head" for name in HEADS]
    kind = lambda part: part and (type(part), getattr(part, "classes", None))
    found = [name for name in heads if kind(getattr(model, name)) != kind(getattr(theirs, name))]
    classes = (getattr(network.vision, "classes", None) for network in (model, theirs))
    return found + ["classifier"] * (len({*classes}) > 1)


def write_folder(
    pretrained: Pretrained, folder: str | Path, like: str | Path | None = None
) -> None:
    """A folder that the reference library loads: config.json, tensors and, from the folder `like`,
    tokenizer and preprocessor files.

    Everything is written beside the place first, and an existing folder is never overwritten:
    FileExistsError.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if like:
        copy_small_files(like, partial)
    config, tensors = pretrained.family.files
    text = json.dumps(dict(pretrained.config), indent=2, ensure_ascii=False)
    (partial / config).write_text(text + "\n", encoding="utf-8")
    rules = pretrained.family.rules(pretrained.config)
    written = convert.with_counters(convert.write(pretrained.variables, rules))
    if tensors.endswith(".npz"):
        np.savez(partial / tensors, allow_pickle=False, **dict(written))
    else:
        write_tensors(written, partial, file=tensors)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)


def write_tensors(
    tensors: Any, folder: Path, most: int = SHARD_BYTES, file: str = "model.safetensors"
) -> None:
    """(name, array) pairs as one file of this name, or as shards of at most `most` bytes."""
    shards: list[tuple[Path, list[str]]] = []
    held: dict[str, np.ndarray] = {}
    size = total = 0

    def flush() -> None:
        path = folder / f"shard-{len(shards) + 1}.safetensors"
        save_file(held, path, metadata={"format": "pt"})
        shards.append((path, list(held)))
        held.clear()

    for name, array in tensors:
        if held and size + array.nbytes > most:
            flush()
            size = 0
        held[name] = array
        size, total = size + array.nbytes, total + array.nbytes
    flush()
    if len(shards) == 1:
        shards[0][0].rename(folder / file)
        return
    weight_map = {}
    for number, (path, names) in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(folder / name)
        weight_map |= dict.fromkeys(names, name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def count(config: Config) -> int:
    """Number of parameters of the network that a config.json describes."""
    return trees.count_parameters(shapes_of(family_of(config), config)[1]["params"])
