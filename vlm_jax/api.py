"""Runs and published checkpoints as Python objects, for notebooks and for `--mode=predict`.

model = vlm_jax.load("runs/quickstart")
model.caption("cat.jpg")                      # a str; a list in gives a list out
model.answer("cat.jpg", "what colour is it?")
model.rank("a red circle", ["a.png", "b.png"])
model.caption("cat.mp4")                      # by as many frames as the model was made for
model.embed_audio("cat.wav"), model.rank_for_audio("cat.wav", images=["a.png", "b.png"])
model.chat().say("what is this", ["cat.jpg"])  # a conversation that goes on

model = vlm_jax.load_pretrained("vit-base-patch16-224")
model.abilities                               # what it can be asked
model.classify("cat.jpg", top=3), model.features("cat.jpg")
vlm_jax.load_pretrained("SmolLM2-135M").complete("Once upon a time", length=20, beams=4)
vlm_jax.load_pretrained("bert-base-uncased").fill("the cat sat on the [MASK]")
"""

from pathlib import Path
from typing import Any

import jax

from vlm_jax import checkpoint, experiment, lora, sharding, trees, workdir
from vlm_jax.evaluate import Run
from vlm_jax.loaded import Audio, Image, Model, Published
from vlm_jax.weights import adopt
from vlm_jax.weights.folder import read_config

__all__ = ["Audio", "Image", "Model", "Published", "export", "load", "load_pretrained"]


def load(folder: str | Path, *, batch_size: int = 64) -> Model:
    """The newest sound checkpoint of a workdir, with averaged parameters if the run kept them.

    FileNotFoundError if `folder` is no workdir or has no checkpoint yet.
    """
    folder = Path(folder)
    config = workdir.read_config(folder)
    mesh = sharding.make_mesh()
    setup = experiment.build(config, folder)
    entry = "ema" if dict(config["optimizer"]).get("ema") else "params"
    variables = {"params": lora.merge(trees.unflatten(checkpoint.load_params(folder, entry)))}
    try:
        variables["batch_stats"] = trees.unflatten(checkpoint.load_params(folder, "batch_stats"))
    except KeyError:
        pass  # a model without batch normalisation
    shards = sharding.batch_shards(mesh)
    placed = sharding.replicated(mesh)
    variables = {name: jax.device_put(tree, placed) for name, tree in variables.items()}
    run = Run(setup, variables, mesh, -(-batch_size // shards) * shards)
    return Model(run, _published(folder / adopt.SUBFOLDER))


def _published(folder: Path) -> Published | None:
    """Where a run began, if that was a published checkpoint."""
    if not folder.is_dir():
        return None
    from vlm_jax.weights import pretrained  # late, as above

    config = read_config(folder)
    return Published(pretrained.family_of(config), config, folder)


def load_pretrained(folder: str | Path, *, batch_size: int = 64, dtype: Any = None) -> Model:
    """A published checkpoint folder (config.json, *.safetensors, tokenizer and preprocessor files)
    as a model like those of `load`.

    dtype: of the parameters (None: as stored). WeightsError, a ValueError, says what is wrong with
    the folder.
    """
    from vlm_jax.weights import pretrained, setups  # late: they bring every family along

    mesh = sharding.make_mesh()
    placed = sharding.replicated(mesh)
    place = lambda path, array: jax.device_put(array, placed)
    found = pretrained.read_folder(folder, dtype=dtype, place=place)
    setup = setups.experiment_of(found, folder)
    shards = sharding.batch_shards(mesh)
    run = Run(setup, found.variables, mesh, -(-batch_size // shards) * shards)
    return Model(run, Published(found.family, found.config, Path(folder)))


def export(model: Model, folder: str | Path) -> None:
    """Write a model that began as a published checkpoint as a folder of the same format: of the
    same class, or of the one that its heads, and the classes of its task, make it.

    ValueError for a model made from scratch here, which has no published format, and for one whose
    heads no class of its family has. FileExistsError if the folder is not empty.
    """
    if model.published is None:
        raise ValueError(
            "this model was not made from a published checkpoint, so there is no format to export "
            "it to: its workdir holds everything"
        )
    from vlm_jax.weights import pretrained, reclassed  # late, as above

    family, config, source = model.published
    network = pretrained.Pretrained(family, config, model.run.experiment.model, model.run.variables)
    changed = pretrained.changed_heads(family, config, model.run.experiment.model)
    if changed:
        tasks = model.run.experiment.tasks.values()
        names = (getattr(task, "labels", getattr(task, "answers", ())) for task in tasks)
        written = reclassed.reclassed(network, next((x for x in names if x), ()))
        if written is None:
            known = f", nor as {', '.join(family.classes)}" if family.classes else ""
            raise ValueError(
                f"this model was trained with another {' and '.join(changed)} than {source} has, "
                f"so it cannot be written as a folder of the same class{known}: its workdir holds "
                "everything"
            )
        network = written
    pretrained.write_folder(network, folder, like=source)
