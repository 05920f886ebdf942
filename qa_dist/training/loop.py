"""The training loop: prepared shards in; checkpoints, scalars and a heartbeat out.

Step s is a pure function of (data fingerprint, seed, s): its windows come from data/order.py, the
generators are seeded anew before each micro-batch, the learning rate is a function of s. So a
resume needs the newest checkpoint and nothing else, and 1, 2 or 4 ranks walk the same curve. Must
not know SLURM, submitit or the launcher.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qa_dist import faults
from qa_dist.attempts import take_over, update_run
from qa_dist.checkpoint import (
    Checkpoint,
    load_checkpoint,
)
from qa_dist.data.collate import Batch
from qa_dist.data.order import mix
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.files import (
    read_json,
)
from qa_dist.lock import locked
from qa_dist.models.span import build_model, span_loss
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.run_dir import RunDir
from qa_dist.scalars import ScalarWriter
from qa_dist.tasks import TASKS
from qa_dist.training.batches import Batches
from qa_dist.training.engine import Engine, resolve_precision
from qa_dist.training.journal import NO_READERS, Journal, Readers
from qa_dist.training.layout import lay_out
from qa_dist.training.optim import learning_rate

_LET_GO_S = 60.0  # for an older attempt, once it sees that it is one


class DivergedError(Exception):
    """Loss or gradient isn't finite; the message names the step. Nothing of that step was kept."""


@dataclass
class Progress:
    """What a checkpoint keeps beside weights and moments: all of it follows from the steps done so
    far."""

    step: int = 0
    """Steps done."""
    windows_sha256: str = hashlib.sha256().hexdigest()
    """Chained over the window numbers of all steps done: equal only if each step saw the same
    windows."""
    loss_sum: float = 0.0
    """Sum of the losses of the steps since scalars were last written."""
    loss_steps: int = 0
    """How many steps those are."""
    best_step: int = 0
    """Step of the checkpoint with the lowest validation loss; 0: none yet."""
    best_loss: float = float("inf")


def train(run: RunDir, readers: Readers = NO_READERS) -> str:
    """Train the run from where it stands; return "done", or "stopped" after a signal (the state is
    saved).

    Raises InputError (prepared data missing, checkpoint of another run) and DivergedError.
    """
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    # Resolved once: a run that started in bf16 stays so, wherever it goes on.
    precision = read_json(run.run_json).get("precision")
    engine = Engine(precision or resolve_precision(recipe.train.precision), run.status)
    engine.watch_for_stop()
    try:
        with ExitStack() as stack:
            with engine.others_wait():
                if engine.rank == 0:
                    stack.enter_context(_taken_over(run, engine.timeout_s + _LET_GO_S))
                    update_run(run, precision=engine.precision)
            facts = engine.broadcast(read_json(run.run_json))
            return Training(run, recipe, prepared, engine, facts, readers).run_to_end()
    except RuntimeError as error:
        lost = engine.lost_rank(error)
        if lost is None:
            raise
        raise lost from error
    finally:
        engine.close()


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
        self.order, self.num_steps = self.batches.order, self.batches.num_steps
        self.journal: Journal | None = None  # on the other ranks
        if engine.rank == 0:
            self.journal = Journal(run, recipe.train, facts, prepared.fingerprint, self.num_steps)
            self.journal.readers = readers
        num_classes = len(TASKS[recipe.sources[0].task].ANSWER_CLASSES)
        self.model = build_model(recipe.model, num_classes, recipe.train.seed)
        self.model.to(engine.device)
        self.progress = Progress()
        self.loss_sum = torch.zeros((), device=engine.device)
        # This rank's windows, real tokens, and tokens with padding since the last scalars.
        self.tokens = [0, 0, 0]

    # -- the run -----------------------------------------------------------------------------------

    def run_to_end(self) -> str:
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
            if journal:
                journal.beat_if_due(progress.step)

            # -- save, stop? -----------------------------------------------------------------------
            should_stop = engine.should_stop()
            if progress.step % settings.checkpoint_every_steps == 0 or is_last or should_stop:
                self._check_finite()
                self._validate_and_save(scalars, is_last)
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
        self.loss_sum.fill_(self.progress.loss_sum)
        if self.journal:
            self.journal.saved_step = checkpoint.step
        print(
            f"resuming {self.run.root.name} at step {checkpoint.step} of {self.num_steps}",
            flush=True,
        )
        return checkpoint

    def _lay_out(self, checkpoint: Checkpoint | None) -> None:
        """Hand the model to the engine that the recipe asks for, and put the moments back.

        Before that comes a backward that counts for nothing: after its first one DDP lays its
        buckets out anew, and with more than two ranks the layout decides in which order gradients
        are summed, so a step after a resume would differ in the last bit from the same step of an
        uninterrupted run.
        """
        self.layout = lay_out(self.engine, self.model, self.recipe.train)
        self.model.train()
        if self.engine.world_size > 1:
            self._micro_batch((), num_windows=1, is_last=True)
            self.layout.forget_gradients()
        if checkpoint:
            self.layout.load_moments(checkpoint.optimizer_state, checkpoint.step)

    # -- one step ----------------------------------------------------------------------------------

    def train_step(self, step: int, rate: float) -> torch.Tensor:
        """Do one optimizer update; return the gradient's norm before clipping: ()."""
        settings, engine = self.recipe.train, self.engine
        micro_batches = self.order.micro_batches(step)
        num_windows = sum(len(windows) for windows in micro_batches)
        mine = engine.my_share(self.layout.even_out(micro_batches))
        step_loss = torch.zeros((), device=engine.device)
        is_poisoned = faults.reach("train.gradient", step) == "nan"
        for index, windows in mine:
            seed_generators(mix(settings.seed, step, index))
            is_last = index == mine[-1][0]
            step_loss += self._micro_batch(windows, num_windows, is_last, is_poisoned)
        engine.sum_over_ranks(step_loss)
        grad_norm = self.layout.update(rate, step_loss)
        if self.layout.knows_at_once:
            self._check_finite()
        self.loss_sum += step_loss
        self.progress.loss_steps += 1
        chain = hashlib.sha256(bytes.fromhex(self.progress.windows_sha256))
        for windows in micro_batches:
            chain.update(windows.tobytes())
        self.progress.windows_sha256 = chain.hexdigest()
        return grad_norm

    def _micro_batch(
        self, windows: Sequence[int], num_windows: int, is_last: bool, is_poisoned: bool = False
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch; return its share of the step's loss: ()."""
        batch = self.batches.collate(self.batches.train_split, windows)
        if len(windows):
            self.tokens[0] += len(windows)
            self.tokens[1] += batch.num_tokens
            self.tokens[2] += batch.input_ids.numel()

        def compute_loss() -> torch.Tensor:
            loss = self._loss(self.layout.model, batch, len(windows)) / num_windows
            if is_poisoned:
                loss.register_hook(lambda gradient: gradient * float("nan"))  # type: ignore[no-untyped-call]
            return loss

        return self.layout.backward(compute_loss, is_last)

    def _loss(self, model: nn.Module, batch: Batch, num_windows: int) -> torch.Tensor:
        """Return a micro-batch's summed loss: ().

        An empty one (in the short last batch of an epoch, for ranks that must do as much as the
        others, for the exchange alone) computes window 0 times zero.
        """
        with self.engine.autocast():
            start, end = model(
                batch.input_ids, batch.token_type_ids, batch.attention_mask, batch.candidate_mask
            )
            return span_loss(start, end, batch) * (1.0 if num_windows else 0.0)

    def _check_finite(self) -> None:
        """Raise DivergedError if any step so far was bad; its update was not made."""
        num_bad = int(self.layout.bad_steps.item())
        if num_bad:
            step = self.progress.step - num_bad + self.layout.knows_at_once
            windows = self.order.batch(step)[:8].tolist()
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
        step = self.progress.step
        counts = self.engine.sum_over_ranks(
            torch.tensor(self.tokens, dtype=torch.float64, device=self.engine.device)
        ).tolist()
        loss = float(self.loss_sum.item()) / self.progress.loss_steps
        self.loss_sum.zero_()
        self.progress.loss_steps = 0
        self.tokens = [0, 0, 0]
        if scalars:
            rate_s = counts[0] / seconds
            print(f"step {step}: loss {loss:.4f}, {rate_s:.1f} windows/s", flush=True)
            scalars.write(
                step,
                {
                    "train/loss": loss,
                    "train/learning_rate": rate,
                    "train/gradient_norm": float(grad_norm.item()),
                    "train/epoch": step / self.order.steps_per_epoch,
                    "speed/windows_per_s": counts[0] / seconds,
                    "speed/real_tokens_per_s": counts[1] / seconds,
                    "speed/padding_efficiency": counts[1] / max(1, counts[2]),
                    "speed/memory_gb": memory_gb(self.engine.device),
                },
            )

    def _validate_and_save(self, scalars: ScalarWriter | None, is_last: bool) -> None:
        """Write a checkpoint; a periodic one (or the last) has a validation loss."""
        progress, every = self.progress, self.recipe.train.checkpoint_every_steps
        is_periodic = is_last or progress.step % every == 0
        if is_periodic and self.batches.num_validated:
            loss = self.validation_loss()
            if scalars:
                scalars.write(progress.step, {"validation/loss": loss})
            if loss < progress.best_loss:
                progress.best_step, progress.best_loss = progress.step, loss
        progress.loss_sum = float(self.loss_sum.item())
        weights, moments = self.layout.weights(), self.layout.moments()
        with self.engine.others_wait():
            if self.journal:
                self.journal.save(weights, moments, vars(progress), is_periodic)

    def validation_loss(self) -> float:
        """Return the mean loss per window over a fixed sample of the dev windows; the same for any
        world size."""
        batches, micro_batches = self.batches, self.batches.validation_micro_batches()
        total = torch.zeros((), device=self.engine.device)
        with self.layout.evaluating() as model:
            for _, windows in self.engine.my_share(self.layout.even_out(micro_batches)):
                batch = batches.collate(batches.dev_split, windows)
                total += self._loss(model, batch, len(windows))
        return float(self.engine.sum_over_ranks(total).item()) / batches.num_validated


def seed_generators(seed: int) -> None:
    """Seed what dropout draws from, on the CPU and on the current device."""
    torch.manual_seed(seed & (1 << 63) - 1)


def memory_gb(device: torch.device) -> float:
    """Return the most memory used so far: the device's, or this process's resident set; in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
