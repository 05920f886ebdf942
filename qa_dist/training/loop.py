"""The training loop: prepared shards in; checkpoints, scalars and a heartbeat out.

Step s is a pure function of (data fingerprint, seed, s): its windows come from data/order.py, the
generators are seeded anew before each micro-batch, the learning rate is a function of s. So a
resume needs the newest checkpoint and nothing else, and 1, 2 or 4 ranks walk the same curve. Must
not know SLURM, submitit or the launcher.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from qa_dist import faults
from qa_dist.attempts import take_over, update_run
from qa_dist.checkpoint import Checkpoint, load_checkpoint
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.files import read_json
from qa_dist.lock import locked
from qa_dist.models import build_model
from qa_dist.models.attention import resolve_packing
from qa_dist.models.parameters import count_parameters, show_parameters
from qa_dist.recipe import Recipe, source_names, trained_sources
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.run_dir import RunDir
from qa_dist.scalars import ScalarWriter
from qa_dist.training.batches import Batches
from qa_dist.training.engine import Engine, resolve_precision
from qa_dist.training.journal import NO_READERS, Journal, Readers
from qa_dist.training.layout import lay_out
from qa_dist.training.optim import learning_rate
from qa_dist.training.progress import Progress
from qa_dist.training.steps import Seen, Steps

_LET_GO_S = 60.0  # for an older attempt, once it sees that it is one


class DivergedError(Exception):
    """Loss or gradient isn't finite; the message names the step. Nothing of that step was kept."""


def train(run: RunDir, readers: Readers = NO_READERS) -> str:
    """Train the run from where it stands; return "done", or "stopped" after a signal (the state is
    saved).

    Raises InputError (prepared data missing, checkpoint of another run) and DivergedError.
    """
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    # Resolved once: a run that started in bf16, or packed, stays so, wherever it goes on.
    facts = read_json(run.run_json)
    precision = facts.get("precision") or resolve_precision(recipe.train.precision)
    engine = Engine(precision, run.status)
    engine.watch_for_stop()
    with closing(engine), engine.lost_ranks_named():
        packing = facts.get("packing", "off" if "precision" in facts else recipe.train.packing)
        is_packed, obstacle = resolve_packing(packing, recipe.model, precision)
        if obstacle and engine.rank == 0:
            print(f"train.packing=auto: batches are padded, as {obstacle}", flush=True)
        with ExitStack() as stack:
            with engine.others_wait():
                if engine.rank == 0:
                    stack.enter_context(_taken_over(run, engine.timeout_s + _LET_GO_S))
                    update_run(run, precision=precision, packing="on" if is_packed else "off")
            facts = engine.broadcast(read_json(run.run_json))
            return Training(run, recipe, prepared, engine, facts, readers).run_to_end()


@contextmanager
def _taken_over(run: RunDir, wait_s: float) -> Iterator[None]:
    """Make this attempt the one that may publish, and hold its training; an older attempt that
    still lives sees it within `wait_s`, and lets go."""
    attempt = os.environ.get("QA_DIST_ATTEMPT") or read_json(run.run_json)["attempt"]
    take_over(run, int(attempt))
    with locked(run.root / "train.lock", "this run is being trained", wait_s):
        yield


class Training:
    """The state of one attempt."""

    def __init__(
        self,
        run: RunDir,
        recipe: Recipe,
        prepared: Prepared,
        engine: Engine,
        facts: dict[str, Any],
        readers: Readers = NO_READERS,
    ) -> None:
        self.run, self.recipe, self.engine = run, recipe, engine
        self.batches = Batches(recipe, prepared, engine)
        self.num_steps = self.batches.num_steps
        self.names = [source_names(recipe)[place] for place in trained_sources(recipe)]
        self.journal: Journal | None = None  # on the other ranks
        if engine.rank == 0:
            self.journal = Journal(run, recipe.train, facts, prepared.fingerprint, self.num_steps)
            self.journal.readers = readers
        is_packed = facts.get("packing") == "on"
        self.model = build_model(recipe, self.batches.classes, is_packed)
        self.model.to(engine.device)
        if engine.rank == 0:
            print("parameters:", *show_parameters(count_parameters(self.model)), sep="\n  ")
        self.progress = Progress()

    # -- the run -----------------------------------------------------------------------------------

    def run_to_end(self) -> str:
        """Train from where the run stands; return "done" or "stopped", all being saved."""
        # Who is lost is said before a checkpoint that is being written is waited for: the others
        # wait for our word a few seconds only, and would take us for lost as well.
        with self.journal or nullcontext(), self.engine.lost_ranks_named():
            return self._run_to_end()

    def _run_to_end(self) -> str:
        """Resume, then batch, forward-backward, update, log, save, stop? for each step."""
        engine, settings, progress = self.engine, self.recipe.train, self.progress
        journal = self.journal
        checkpoint = self._resume()
        if progress.step >= self.num_steps:
            return self._end()
        self._lay_out(checkpoint)
        scalars = None
        if journal:
            journal.readers.saved(False)
            resumed_at = checkpoint.step if checkpoint else None
            scalars = ScalarWriter(self.run.tensorboard, self.run.scalars, resumed_at)
        started = time.monotonic()
        while progress.step < self.num_steps:
            # -- batch, forward-backward, update ---------------------------------------------------
            step = progress.step
            faults.reach("train.step", step)
            rate = learning_rate(step, self.num_steps, settings)
            grad_norm = self.train_step(step, rate)
            progress.step += 1

            # -- log -------------------------------------------------------------------------------
            is_last = progress.step == self.num_steps
            if progress.step % settings.log_every_steps == 0 or is_last:
                self._check_finite()
                self._log(scalars, rate, grad_norm, time.monotonic() - started)
                started = time.monotonic()
            cosine_every = settings.gradient_cosine_every_steps
            if cosine_every and progress.step % cosine_every == 0 and len(self.names) > 1:
                self._log_cosines(scalars)
            if journal:
                journal.beat_if_due(progress.step)
                if journal.look():  # all ranks stop, and in saving rank 0 says what went wrong
                    engine.ask_to_stop()

            # -- save, stop? -----------------------------------------------------------------------
            should_stop = engine.should_stop()
            if progress.step % settings.checkpoint_every_steps == 0 or is_last or should_stop:
                self._check_finite()
                self._validate_and_save(scalars, is_last, should_stop)
            if should_stop and not is_last:
                if journal:
                    journal.beat("stopped", progress.step)
                return "stopped"
        if scalars:
            scalars.close()
        engine.barrier()
        return self._end()

    def _end(self) -> str:
        if self.journal:
            self.journal.readers.saved(True)
            self.journal.beat("done", self.progress.step)
        return "done"

    def _resume(self) -> Checkpoint | None:
        """Load weights and progress of the newest valid checkpoint, chosen by rank 0; return it,
        None for a new run."""
        with self.engine.others_wait():
            found = self.journal.find() if self.journal else None
        path = self.engine.broadcast(found)
        if path is None:
            return None
        checkpoint: Checkpoint = load_checkpoint(path, hashes=self.engine.rank != 0)
        self.model.load_state_dict(checkpoint.model_state)
        for name, value in checkpoint.train_state.items():
            setattr(self.progress, name, value)
        if self.journal:
            self.journal.saved_step = checkpoint.step
        print(
            f"resuming {self.run.root.name} at step {checkpoint.step} of {self.num_steps}",
            flush=True,
        )
        return checkpoint

    def _lay_out(self, checkpoint: Checkpoint | None) -> None:
        """Hand the model to the engine that the recipe asks for, and put the moments back."""
        self.layout = lay_out(self.engine, self.model, self.recipe.train)
        self.model.train()
        self.steps = Steps(
            self.recipe, self.engine, self.batches, self.layout, self.progress.balance
        )
        if self.engine.world_size > 1:
            self.steps.warm_up()
        if checkpoint:
            losses = self.steps.losses
            losses.sums.copy_(torch.tensor(self.progress.loss_sums))
            losses.steps = list(self.progress.loss_steps)
            self.layout.load_moments(checkpoint.optimizer_state, self._num_updates)

    def _num_updates(self, parameter: str) -> int:
        """Return how often a parameter was updated so far: a head only in its source's steps."""
        step = self.progress.step
        source = self.layout.owner(parameter)
        return step if source is None else self.batches.mixture.count(source, step)

    # -- one step ----------------------------------------------------------------------------------

    def train_step(self, step: int, rate: float) -> torch.Tensor:
        """Do one optimizer update; return the gradient's norm before clipping: ()."""
        batch = self.batches.step(step)
        grad_norm = self.steps.do(step, batch, rate)
        if self.layout.knows_at_once:
            self._check_finite()
        self.progress.chain(batch.micro_batches)
        return grad_norm

    def _check_finite(self) -> None:
        """Raise DivergedError if any step so far was bad; its update was not made."""
        num_bad = int(self.layout.bad_steps.item())
        if num_bad:
            step = self.progress.step - num_bad + self.layout.knows_at_once
            windows = np.concatenate(self.batches.step(step).micro_batches)[:8].tolist()
            raise DivergedError(
                f"step {step}: loss or gradient isn't finite; no update was made and nothing was "
                f"saved. Windows of that step begin with {windows}. Try a lower "
                "train.learning_rate, or train.precision=fp32"
            )

    # -- log, validate, save -----------------------------------------------------------------------

    def _log(
        self, scalars: ScalarWriter | None, rate: float, grad_norm: torch.Tensor, seconds: float
    ) -> None:
        """Write the scalars of the steps since the last time."""
        step, seen, losses = self.progress.step, self.steps.seen, self.steps.losses
        counts = self.engine.sum_over_ranks(
            torch.tensor(
                [seen.windows, seen.tokens, seen.padded_tokens],
                dtype=torch.float64,
                device=self.engine.device,
            )
        ).tolist()
        sums = losses.sums.tolist()
        loss = sum(sums) / sum(losses.steps)
        values = {
            "train/loss": loss,
            "train/learning_rate": rate,
            "train/gradient_norm": float(grad_norm.item()),
            "train/epoch": step / self.batches.steps_per_epoch,
            "speed/windows_per_s": counts[0] / seconds,
            "speed/real_tokens_per_s": counts[1] / seconds,
            "speed/padding_efficiency": counts[1] / max(1, counts[2]),
            "speed/memory_gb": memory_gb(self.engine.device),
        }
        if len(self.names) > 1:
            for k, name in enumerate(self.names):
                values[f"train_{name}/steps"] = self.batches.mixture.count(k, step)
                values[f"train_{name}/epoch"] = self.batches.epochs(k, step)
                values[f"train_{name}/weight"] = self.steps.balance.weight(k)
                if losses.steps[k]:
                    values[f"train_{name}/loss"] = sums[k] / losses.steps[k]
        losses.sums.zero_()
        losses.steps = [0] * len(self.names)
        self.steps.seen = Seen()
        if scalars:
            print(f"step {step}: loss {loss:.4f}, {counts[0] / seconds:.1f} windows/s", flush=True)
            scalars.write(step, values)

    def _log_cosines(self, scalars: ScalarWriter | None) -> None:
        """Write how far the sources' gradients agree."""
        found = self.steps.gradient_cosines(self.progress.step)
        if scalars:
            scalars.write(
                self.progress.step,
                {
                    f"gradient_cosine/{self.names[j]}_{self.names[i]}": float(cosine.item())
                    for (i, j), cosine in found.items()
                },
            )

    def _validate_and_save(
        self, scalars: ScalarWriter | None, is_last: bool, is_stop: bool
    ) -> None:
        """Write a checkpoint; a periodic one (or the last) has a validation loss.

        It is written while training goes on; the last one, and that of a stop, is waited for.
        """
        progress, every = self.progress, self.recipe.train.checkpoint_every_steps
        is_periodic = is_last or progress.step % every == 0
        losses = self.validation_losses() if is_periodic else {}
        if losses:
            fixed = {k: self.steps.balance.fixed[k] for k in losses}
            loss = sum(fixed[k] * losses[k] for k in losses) / sum(fixed.values())
            if scalars:
                values = {"validation/loss": loss}
                if len(self.names) > 1:
                    values |= {f"validation_{self.names[k]}/loss": x for k, x in losses.items()}
                scalars.write(progress.step, values)
            progress.validated(loss)
        progress.loss_sums = self.steps.losses.sums.tolist()
        progress.loss_steps = list(self.steps.losses.steps)
        progress.balance = list(self.steps.balance.state)
        with self.engine.others_wait():
            if self.journal:
                self.journal.finish()  # of the save before, or its error: before a collective
        weights, moments = self.layout.weights(), self.layout.moments()
        if is_last or is_stop:
            with self.engine.others_wait():
                if self.journal:
                    self.journal.save(weights, moments, vars(progress), is_periodic)
        elif self.journal:
            self.journal.save_behind(weights, moments, vars(progress), is_periodic)

    def validation_losses(self) -> dict[int, float]:
        """Return for each source the mean loss per target over a fixed sample of its dev windows;
        the same for any world size."""
        sources = self.batches.sources
        samples = [windows_of.validation(k) for k, windows_of in enumerate(sources)]
        return {
            k: float(self.steps.loss(sample, lambda k: sources[k].dev_split).item())
            for k, sample in enumerate(samples)
            if sample.micro_batches
        }


def memory_gb(device: torch.device) -> float:
    """Return the most memory used so far: the device's, or this process's resident set; in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
