"""The training loop. One, for every model, task and number of devices; read it from top to bottom.

A run is a function of its config: the batches depend on the seed and the position, dropout on the
seed and the step, so a run that was stopped anywhere, by any means, continues to the same last bit.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax

import vlm_jax
from vlm_jax import (
    checkpoint,
    evaluate,
    experiment,
    kwargs,
    logs,
    optim,
    processes,
    progress,
    report,
    sharding,
    trees,
    workdir,
)
from vlm_jax.data import pipeline
from vlm_jax.data.packing import padding_share, together
from vlm_jax.program import Program, batch_of, make_program
from vlm_jax.step import State, start_from, variables_of
from vlm_jax.weights import adopt


class Diverged(RuntimeError):
    """The loss is not a number. The message names the step; the last good checkpoint is kept."""


def train(config: Mapping[str, Any], folder: str | Path) -> dict[str, float]:
    """Train to the end, or go on from the last checkpoint in `folder`; returns the final metrics.

    Raises what the preflight finds (TypeError, ValueError, DataError), RuntimeError for a workdir
    in use, Diverged.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        # --- preflight: what can be wrong is found before anything is compiled --------------------
        config = adopt.complete(config)
        experiment.check_config(config)
        mesh = sharding.make_mesh(config.get("mesh"))
        batch_size = config["batch_size"]
        sharding.check_batch_size(mesh, batch_size)
        stack.enter_context(processes.failing_together())
        processes.check_same(config)
        stack.enter_context(workdir.open_workdir(folder, config, owner=processes.is_first()))
        if adopt.is_published(config.get("init")) and processes.is_first():
            adopt.keep(config["init"], folder)
        processes.check_shared(folder)
        source = experiment.source(config["data"]["train"], "config.data.train")
        with processes.in_turn():  # the first learns vocabularies, the others read them
            setup = experiment.build(config, folder, source)
        processes.check_one_shape(setup.read)
        sets = {
            name: experiment.source(
                section.get("data") or config["data"]["train"], f"config.evals.{name}.data"
            )
            for name, section in dict(config.get("evals") or {}).items()
        }
        for name, held_out in sets.items():
            task = config["evals"][name]["task"]
            evaluate.rehearse(setup, name, task, held_out)

        # --- data ---------------------------------------------------------------------------------
        loader = pipeline.Loader(
            source,
            setup.read,
            setup.preprocess,
            config["data"].get("on_error", "skip"),
        )
        rows = sharding.own_rows(mesh, batch_size)
        reading = {
            key: config["data"][key] for key in ("threads", "prefetch") if key in config["data"]
        }
        batches = iter(
            pipeline.train_batches(
                loader,
                batch_size=batch_size,
                seed=config.get("seed", 0),
                rows=rows,
                packing=setup.packing,
                **reading,
            )
        )

        # --- state --------------------------------------------------------------------------------
        rows_of = lambda loader: pipeline.stack(
            [pipeline.example_row(loader, setup.packing)] * sharding.batch_shards(mesh)
        )
        program = make_program(setup, mesh, rows_of(loader.pictures()), len(source))
        total = program.total
        units = setup.units(len(source))
        in_steps = lambda section, key, default: optim.to_steps(
            section, key, default=default, total_steps=total, **units
        )
        update = program.compile_update(batch_of(mesh, rows_of(loader), batch_size))  # meanwhile:
        with jax.set_mesh(mesh):
            state = program.jit_create(run_once())()
        if config.get("init"):
            state = start_from(state, config["init"])
        saving = dict(config.get("checkpoint") or {})
        save_every = in_steps(saving, "every", max(total // 10, 1))
        saving = {key: value for key, value in saving.items() if not key.startswith("every_")}
        saver = kwargs.call(
            checkpoint.Checkpointer,
            saving,
            "config.checkpoint",
            folder=folder / checkpoint.SUBFOLDER,
        )
        stack.callback(saver.close)
        restored = saver.restore(state)
        step = 0
        if restored is not None:
            step, state, position = restored
            batches.set_state(position)

        # --- what watches the run -----------------------------------------------------------------
        log_config = dict(config.get("logs") or {})
        log_every = in_steps({"every_steps": log_config.pop("every_steps", 50)}, "every", None)
        log = stack.enter_context(
            closing(logs.Logs(folder, log_config or None, resume=step if restored else None))
        )
        bar = stack.enter_context(progress.Progress(total, batch_size, start=step))
        stopping = stack.enter_context(processes.StopRequest())
        stack.enter_context(processes.failing_together())  # last, to be the first to know
        run = evaluate.Run(setup, {}, mesh, batch_size)
        schedule_of = {
            name: in_steps(section, "every", total)
            for name, section in dict(config.get("evals") or {}).items()
        }

        def evaluate_now(names: list[str]) -> dict[str, float]:
            run.variables = variables_of(state)
            found = {}
            for name in names:
                run.predictions = folder / "predictions" / f"{name}.jsonl"
                found |= evaluate.evaluate(run, name, config["evals"][name], sets[name], source)
            return found

        def padding() -> dict[str, float]:
            if setup.packing is None:
                return {}
            return {"padding_share": padding_share(batches.get_state(), setup.packing.length)}

        def position_of_all() -> dict[str, Any]:
            own = batches.get_state()
            return own if setup.packing is None else together(processes.gather(own))

        def save() -> None:
            _check_finite(state, folder)
            saver.save(step, state, position_of_all())

        _announce(folder, state, program, config.get("mesh"), step)
        metrics: dict[str, float] = {}

        # --- the loop -----------------------------------------------------------------------------
        if step < total:
            update.result()
            processes.wait_for_all()
        pending, first = None, True
        while step < total:
            with bar.waiting():
                batch = next(batches)
            state, losses = update.result()(state, sharding.shard_batch(mesh, batch))
            # Staying one step ahead of the device hides the host's work and bounds the queue.
            jax.block_until_ready(pending)
            pending = losses
            step += 1
            if first:
                jax.block_until_ready(losses)
                seconds = time.perf_counter() - vlm_jax.STARTED
                bar.print(f"first step finished {seconds:.1f} s after the start of the program")
                log.write_timing(step, {"first_step_seconds": seconds})
                first = False
            bar.update(step)
            logged: dict[str, float] = {}
            if step % log_every == 0 or step == total:
                logged = {name: float(value) for name, value in jax.device_get(losses).items()}
                logged["learning_rate"] = program.learning_rate * float(program.schedule(step - 1))
                bar.update(step, loss=logged["loss"])
                _check_finite(state, folder)
            due = [
                name for name, every in schedule_of.items() if step % every == 0 or step == total
            ]
            if due:
                with bar.paused():
                    metrics |= evaluate_now(due)
                    logged |= {
                        name: value for name, value in metrics.items() if name.split("/")[0] in due
                    }
            if logged:
                log.write(step, logged)
                timings = bar.timing()
                if timings:
                    log.write_timing(step, timings | padding())
            stop = stopping.at(step)
            if step % save_every == 0 or step == total or stop:
                with bar.paused():
                    save()
            if stop:
                saver.wait()
                bar.print(
                    f"stopped by a signal at step {step}, saved; the same command goes on from here"
                )
                return metrics
        if loader.skipped.count:
            bar.print(
                f"{loader.skipped.count} broken examples were skipped, e.g. "
                f"{loader.skipped.reasons[0]}"
            )
        if setup.packing is not None:
            bar.print(f"{padding()['padding_share']:.1%} of the tokens of packed rows were padding")
        saver.wait()
        if not metrics and schedule_of:
            metrics = evaluate_now(list(schedule_of))  # a finished run, started again
        if bar.total():
            waiting = bar.total()["waiting_share"]
            bar.print(f"waiting for data took {waiting:.1%} of the training time")
        if processes.is_first():
            report.write(folder)
        return metrics


def run_once() -> dict[str, Any] | None:
    """How to compile what runs once: on a CPU, optimizing it takes longer than it saves."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def _check_finite(state: State, folder: Path) -> None:
    """Diverged if any step so far had a loss or gradient that is not finite."""
    bad = int(jax.device_get(state["bad_step"]))
    if bad >= 0:
        raise Diverged(
            f"the loss or its gradient was not finite at step {bad}: the last good checkpoint "
            "stays in "
            f"{folder / checkpoint.SUBFOLDER}. Lower optimizer.learning_rate, set "
            "optimizer.clip_norm, or lengthen "
            "schedule.warmup_steps"
        )


def _announce(
    folder: Path, state: State, program: Program, layout: kwargs.Config, step: int
) -> None:
    """One line about what is about to run; parameters.txt and sharding.txt in the workdir."""
    if not processes.is_first():
        return
    count = trees.count_parameters(state["params"])
    mesh, frozen = program.mesh, jax.tree.leaves(program.frozen)
    pairs = zip(jax.tree.leaves(state["params"]), frozen, strict=True)
    trained = sum(leaf.size for leaf, cold in pairs if not cold)
    workdir.atomic_write_text(folder / "parameters.txt", trees.table(state["params"]) + "\n")
    table = sharding.sharding_table(mesh, state["params"], layout)
    workdir.atomic_write_text(folder / "sharding.txt", table + "\n")
    where = (
        f"{mesh.devices.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.devices.size > 1)}"
    )
    start = f"going on from step {step:,}" if step else "starting"
    print(
        f"{start} of {program.total:,}: {count:,} parameters, {trained:,} of them trained, on "
        f"{where}; workdir {folder}",
        flush=True,
    )
