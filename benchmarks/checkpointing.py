"""What saving costs a training: the share of its wall time, and the steps around a save.

    python benchmarks/checkpointing.py [device=cpu] [threads=2] [shape=minilm] [runs=3] [--json]

A model with MiniLM's shape and random weights (22.7M parameters; weights and moments are 272 MB) is
trained by our loop itself (qa_dist/training/loop.py, as `jobs/train.py` runs it) on SQuAD, with
hidden dropout, AdamW and the precision that `auto` chooses. Step s sees the same windows in each
run, so runs are compared step by step. Batches are small (4 windows; 16 on CUDA), which makes steps
short and the share of a save larger than in a real training. A run of each kind makes a turn: one
that saves nothing, one that saves after step 21, one that saves there synchronously: the same
state, by the same code, on the same disk (`Journal.save`: what a loop without a writer calls).

The steps around a save are those from the save until the writer is found idle. Their extra time is
what they take beyond the same steps of the run that saves nothing, times the pace at which the
other steps of the two runs went (a machine is not equally fast all the time). Steps are timed from
boundary to boundary, where on CUDA the device is waited for: fsync, sha256, rename, marker, and all
that a step loses to the thread that does this, are in it; the return time of a call counts for
nothing. The save is the first of its training, so that memory for the copies has yet to be found.

* Share: the extra time of all steps around a save, by that plus the time of 50 other steps (on
  CUDA 100).
* Stall: the extra time of the slowest step around a save, ours by the synchronous one's. The last
  row, which has no goal, sums up all steps around it: on a CPU, copying, writing and hashing take
  their time from the very cores that compute the step, so that only what waits for the disk is won.

Before times are taken, the two ways of saving must have written the same bytes.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inputs import encoder, squad
from side_by_side import ROOT, Row, compared, measured, run_script

WARM_UP = 4
SAVED_AT = 21
STEPS = 45
STEPS_OF_SYNCHRONOUS = 24
SHARE_STEPS = {False: 50, True: 100}
"""From one save to the next: on a CPU, and on CUDA."""


@dataclass
class Timed:
    """The steps of a run."""

    seconds: list[float] = field(default_factory=list)
    is_around: list[bool] = field(default_factory=list)
    """Whether a checkpoint was saved or being written when the step began."""


class Runs:
    """Short trainings of the same steps."""

    def __init__(self, folder: Path, shape: str, on_cuda: bool) -> None:
        from qa_dist.plan import make_plan
        from qa_dist.recipe_loading import load_recipe

        self.folder, self.on_cuda = folder, on_cuda
        data = squad(folder)
        self.note = data.note
        settings = [
            f"model.name={encoder(folder / 'encoder', shape)}",
            f"sources.0.train={data.train}",
            f"sources.0.dev={data.dev}",
            "sources.0.max_train_examples=2000",
            "sources.0.max_dev_examples=20",
            f"train.batch_windows={16 if on_cuda else 4}",
            "train.min_micro_batches_per_step=1",
            "train.validation_windows=0",
            "train.log_every_steps=50",
        ]
        self.settings = settings
        recipe = load_recipe("squad1_bert", settings, ROOT / "configs" / "recipes")
        self.plan = make_plan(recipe, folder / "prepared")
        self.numbers = itertools.count()

    def train(self, steps: int, saved_at: int, is_synchronous: bool = False) -> Timed:
        """Train so many steps, saving after step `saved_at`; return what each took.

        What comes after the last step, which is always saved and waited for, isn't counted.
        """
        import torch

        from qa_dist.files import read_json
        from qa_dist.training.engine import Engine, resolve_precision
        from qa_dist.training.loop import Training

        run, recipe, prepared = self._open(steps, saved_at)
        engine = Engine(resolve_precision("auto"))
        timed, marks = Timed(), [time.perf_counter()]
        try:
            training = Training(run, recipe, prepared, engine, read_json(run.run_json))
            journal = training.journal
            assert journal
            if is_synchronous:
                journal.save_behind = journal.save  # type: ignore[method-assign]

            def boundary() -> bool:
                if self.on_cuda:
                    torch.cuda.synchronize()
                marks.append(time.perf_counter())
                timed.seconds.append(marks[-1] - marks[-2])
                # What comes next is the save, if it is due, and the step after it.
                is_due = len(timed.seconds) == saved_at
                timed.is_around.append(is_due or journal._writer.is_busy)
                return False

            engine.should_stop = boundary  # type: ignore[method-assign]
            training.run_to_end()
        finally:
            engine.close()
        timed.is_around = [False, *timed.is_around[:-1]]
        self.last = run
        return timed

    def _open(self, steps: int, saved_at: int) -> tuple[Any, Any, Any]:
        from qa_dist.attempts import new_attempt
        from qa_dist.cluster.open_run import open_run
        from qa_dist.plan import save_plan
        from qa_dist.prepare import prepare_element
        from qa_dist.recipe_loading import load_recipe
        from qa_dist.run_dir import RunDir

        more = [f"train.max_steps={steps}", f"train.checkpoint_every_steps={saved_at}"]
        recipe = load_recipe("squad1_bert", [*self.settings, *more], ROOT / "configs" / "recipes")
        run = RunDir(self.folder / f"run-{next(self.numbers)}")
        run.root.mkdir()
        prepared = open_run(run, recipe, self.plan, self.plan.prepared(1, 1), is_fresh=False)
        save_plan(self.plan)
        for element, (split, index) in enumerate(prepared.elements()):
            if prepared.shards(split)[index] in prepared.missing(split):
                prepare_element(run, element)
        new_attempt(run)
        return run, recipe, prepared


def rows(
    device: str = "cpu",
    threads: int = 2,
    shape: str = "minilm",
    runs: int = 3,
) -> Iterator[Row]:
    """Yield the share, and the stalls."""
    on_cuda = device == "cuda"
    if not on_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # On the disk that this machine's temporary files are on.
    with tempfile.TemporaryDirectory() as name:
        trainings = Runs(Path(name), shape, on_cuda)
        check(trainings)
        yield from measure(trainings, runs, on_cuda)


def check(runs: Runs) -> None:
    """Both ways of saving write the same bytes, or the process ends."""
    from qa_dist.files import read_marker
    from qa_dist.run_dir import step_name

    found = []
    for is_synchronous in (False, True):
        runs.train(4, 2, is_synchronous)
        marker = read_marker(runs.last.checkpoints / step_name(2)) or {"files": {}}
        found.append({name: facts["sha256"] for name, facts in marker["files"].items()})
    if found[0] != found[1] or not found[0]:
        raise SystemExit(f"the two ways of saving differ: {found}")


def measure(trainings: Runs, runs: int, on_cuda: bool) -> Iterator[Row]:
    """Yield all rows."""
    share_steps = SHARE_STEPS[on_cuda]
    shares, slowest, sums, around = [], ([], []), ([], []), []
    for _ in range(runs):
        plain = trainings.train(STEPS, 10 * STEPS)
        ours = trainings.train(STEPS, SAVED_AT)
        theirs = trainings.train(STEPS_OF_SYNCHRONOUS, SAVED_AT, is_synchronous=True)
        for way, timed in enumerate((ours, theirs)):
            extra = extras(timed, plain)
            slowest[way].append(max(extra))
            sums[way].append(sum(extra))
        around.append(sum(ours.is_around))
        shares.append(sums[0][-1] / (sums[0][-1] + share_steps * undisturbed(ours)))
    libraries = ("torch", "safetensors")
    yield measured(
        f"checkpoint each {share_steps} steps: share of wall time (a save's extra time among as "
        "many mean steps)",
        statistics.median(shares),
        "",
        "<= 0.01" if on_cuda else "<= 0.05",
        runs=runs,
        libraries=libraries,
        note=f"{min(shares):.3f} to {max(shares):.3f}; a step takes {undisturbed(ours):.2f} s, "
        f"{statistics.median(around):.0f} steps are around a save {trainings.note}".strip(),
    )
    goal = "<= 0.2" if on_cuda else "<= 0.5"
    for name, seconds, wanted in (("slowest step", slowest, goal), ("all steps", sums, "")):
        yield compared(
            f"save stall: extra time of {name} around a save, ours by a synchronous one's",
            seconds,
            wanted,
            is_ratio_of_times=True,
            libraries=libraries,
            note=trainings.note,
        )


def undisturbed(timed: Timed) -> float:
    """Return the mean seconds of the steps that no save is around."""
    pairs = list(zip(timed.seconds, timed.is_around, strict=True))[WARM_UP:]
    return statistics.mean(seconds for seconds, is_around in pairs if not is_around)


def extras(timed: Timed, plain: Timed) -> list[float]:
    """Return how much longer the steps around the save took."""
    both = list(zip(timed.seconds, plain.seconds, timed.is_around, strict=False))[WARM_UP:]
    pace = statistics.median(a / b for a, b, is_around in both if not is_around)
    return [a - pace * b for a, b, is_around in both if is_around]


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
