"""The training loop. One, for every model, task and number of devices; read it from top to bottom.

A run is a function of its config: the batches depend on the seed and the position, dropout on the
seed and the step, so a run that was stopped anywhere, by any means, continues to the same last bit.
"""

import logging
import signal
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
    progress,
    report,
    sharding,
    trees,
    workdir,
)
from vlm_jax.data import pipeline
from vlm_jax.step import State, initial_state, make_update, start_from, variables_of
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
        stack.enter_context(workdir.open_workdir(folder, config, owner=jax.process_index() == 0))
        if adopt.is_published(config.get("init")) and jax.process_index() == 0:
            adopt.keep(config["init"], folder)
        source = experiment.source(config["data"]["train"], "config.data.train")
        setup = experiment.build(config, folder, source)
        sets = {
            name: experiment.source(
                section.get("data") or config["data"]["train"], f"config.evals.{name}.data"
            )
            for name, section in dict(config.get("evals") or {}).items()
        }
        for name, held_out in sets.items():
            task = config["evals"][name]["task"]
            evaluate.rehearse(setup, name, task, held_out)
        units = {"batch_size": batch_size, "examples_per_epoch": len(source)}
        total = optim.to_steps(config, "total", **units)
        in_steps = lambda section, key, default: optim.to_steps(
            section, key, default=default, total_steps=total, **units
        )

        # --- data ---------------------------------------------------------------------------------
        loader = pipeline.Loader(
            source,
            setup.read,
            setup.preprocess,
            config["data"].get("on_error", "skip"),
        )
        processes = {"process": jax.process_index(), "processes": jax.process_count()}
        reading = {
            key: config["data"][key] for key in ("threads", "prefetch") if key in config["data"]
        }
        batches = iter(
            pipeline.train_batches(
                loader, batch_size=batch_size, seed=config.get("seed", 0), **processes, **reading
            )
        )

        # --- state --------------------------------------------------------------------------------
        example = pipeline.stack([loader(0)] * sharding.batch_shards(mesh))
        optimizer_config = dict(config["optimizer"])
        accumulate = optimizer_config.pop("accumulate", 1)
        ema_decay = optimizer_config.pop("ema", None)
        schedule = optim.make_schedule(config.get("schedule") or {}, total_steps=total, **units)
        init = lambda: initial_state(setup, example, config.get("seed", 0))
        shapes = jax.eval_shape(init)
        optimizer = optim.make_optimizer(optimizer_config, schedule, shapes["params"])
        frozen = trees.match(
            optimizer_config.get("frozen", ()), shapes["params"], "config.optimizer.frozen"
        )

        def create() -> State:
            state = init()
            state["optimizer"] = optimizer.init(state["params"])
            return state | ({} if ema_decay is None else {"ema": state["params"]})

        whole = shapes | {"optimizer": jax.eval_shape(optimizer.init, shapes["params"])}
        whole |= {} if ema_decay is None else {"ema": shapes["params"]}
        shardings = sharding.state_shardings(mesh, whole)
        with jax.set_mesh(mesh):
            state = jax.jit(create, out_shardings=shardings, compiler_options=run_once())()
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
        update = jax.jit(
            make_update(setup, optimizer, frozen, accumulate, ema_decay),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )

        # --- what watches the run -----------------------------------------------------------------
        log_config = dict(config.get("logs") or {})
        log_every = in_steps({"every_steps": log_config.pop("every_steps", 50)}, "every", None)
        log = stack.enter_context(
            closing(logs.Logs(folder, log_config or None, resume=step if restored else None))
        )
        bar = stack.enter_context(progress.Progress(total, batch_size, start=step))
        stopping = stack.enter_context(_StopRequest())
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

        def save() -> None:
            _check_finite(state, folder)
            saver.save(step, state, batches.get_state())

        _announce(folder, state, frozen, mesh, total, step)
        metrics: dict[str, float] = {}

        # --- the loop -----------------------------------------------------------------------------
        pending, first = None, True
        while step < total:
            with bar.waiting():
                batch = next(batches)
            with jax.set_mesh(mesh):
                state, losses = update(state, sharding.shard_batch(mesh, batch))
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
                logged["learning_rate"] = optimizer_config["learning_rate"] * float(
                    schedule(step - 1)
                )
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
                    log.write_timing(step, timings)
            if step % save_every == 0 or step == total or stopping.requested:
                with bar.paused():
                    save()
            if stopping.requested:
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
        saver.wait()
        if not metrics and schedule_of:
            metrics = evaluate_now(list(schedule_of))  # a finished run, started again
        if bar.total():
            waiting = bar.total()["waiting_share"]
            bar.print(f"waiting for data took {waiting:.1%} of the training time")
        if jax.process_index() == 0:
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
    folder: Path, state: State, frozen: trees.Tree, mesh: jax.sharding.Mesh, total: int, step: int
) -> None:
    """One line about what is about to run, and parameters.txt in the workdir."""
    if jax.process_index() != 0:
        return
    count = trees.count_parameters(state["params"])
    pairs = zip(jax.tree.leaves(state["params"]), jax.tree.leaves(frozen), strict=True)
    trained = sum(leaf.size for leaf, cold in pairs if not cold)
    workdir.atomic_write_text(folder / "parameters.txt", trees.table(state["params"]) + "\n")
    where = (
        f"{mesh.devices.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.devices.size > 1)}"
    )
    start = f"going on from step {step:,}" if step else "starting"
    print(
        f"{start} of {total:,}: {count:,} parameters, {trained:,} of them trained, on {where}; "
        f"workdir {folder}",
        flush=True,
    )


class _StopRequest:
    """SIGTERM or Ctrl-C ask the loop to save and stop; a second one ends the program at once."""

    def __enter__(self) -> "_StopRequest":
        self.requested = False
        self._before = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        except ValueError:  # not the main thread, as in some notebooks: signals go elsewhere
            logging.info("not in the main thread: SIGTERM will not save a checkpoint")
        return self

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True
        signal.signal(number, self._before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
