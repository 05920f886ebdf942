"""evaluation.when=each_checkpoint on SLURM: while training goes on it has each checkpoint's
evaluation submitted.

In: a run that is being trained. Out: an array for each finished checkpoint, and an aggregate behind
it. What is to be submitted is read from disk each time: finished checkpoints, their predictions,
and jobs.json. Submitting is done by a process of its own, so that a controller that doesn't answer
neither stops nor slows the training: it is tried again at the next checkpoint and at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from qa_dist.attempts import FencedError, check_attempt
from qa_dist.cluster.queue import QueueError
from qa_dist.cluster.slurm import submit_stages
from qa_dist.cluster.submitted import submitted_since_training, submitting
from qa_dist.evaluation.elements import elements, finished_steps, is_evaluated
from qa_dist.files import read_json, write_status
from qa_dist.profile import Profile
from qa_dist.recipe_loading import load_profile
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name

_TIMEOUT_S = 120.0
"""For one process that submits, in seconds."""
_LAST_WAIT_S = 40.0
"""How long a training that is done waits for its last submission: less than its peers, which have
ended, are waited for (srun --wait)."""
_STOP_WAIT_S = 5.0


def due(run: RunDir) -> dict[int, list[int]]:
    """Return {step: elements} of the checkpoints that are to be evaluated and weren't submitted
    since training was launched."""
    submitted = {
        number
        for one in submitted_since_training(run)
        if one.stage == "evaluate"
        for number in one.elements
    }
    there = set(finished_steps(run))
    found: dict[int, list[int]] = {}
    for number, (step, _, shard) in elements(run).items():
        if step in there and number not in submitted and not is_evaluated(run, step, shard):
            found.setdefault(step, []).append(number)
    return found


def submit_due(run: RunDir, attempt: int) -> list[int]:
    """Submit the evaluation of all checkpoints that are due; return their steps.

    Raises FencedError if a newer attempt trains, InputError or QueueError if SLURM can't be asked;
    then the elements' status files say so.
    """
    facts = read_json(run.run_json)
    stages = [stage for stage in ("evaluate", "aggregate") if stage in facts.get("stages", ())]
    if "evaluate" not in stages:
        return []
    done = []
    with submitting(run):
        profile = load_profile(str(run.root / "profile.yaml"), run.root)
        for step, numbers in due(run).items():
            check_attempt(run, facts["id"], attempt)
            if _own_job() in read_json(run.run_json).get("cancelled", ()):
                break
            wanted = {"evaluate": numbers, "aggregate": [0] if "aggregate" in stages else []}
            _submit(run, profile, f"{facts['recipe']}.{facts['name']}", wanted, attempt)
            done.append(step)
    return done


def _submit(
    run: RunDir, profile: Profile, title: str, wanted: Mapping[str, Sequence[int]], attempt: int
) -> None:
    """Submit one checkpoint's evaluation; its elements' status says until then that it isn't."""
    _note(run, wanted, "sbatch hasn't answered")
    try:
        submit_stages(run, profile, title, wanted, attempt)
    except (InputError, QueueError) as error:
        _note(run, wanted, str(error))
        raise


def _note(run: RunDir, wanted: Mapping[str, Sequence[int]], problem: str) -> None:
    for stage, numbers in wanted.items():
        for number in numbers:
            facts = {"state": "waiting", "step": 0, "not_submitted": problem}
            write_status(run.status_file(stage, number), facts)


def _own_job() -> int:
    return int(os.environ.get("SLURM_JOB_ID") or 0)


class Submitter:
    """Starts a process that submits whenever training has saved a checkpoint, one at a time."""

    def __init__(self, run: RunDir, attempt: int) -> None:
        self._command = [sys.executable, "-m", __name__, str(run.root), str(attempt)]
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Submitter:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(_STOP_WAIT_S)

    def saved(self, is_last: bool) -> None:
        """Have submitted what is due; only `is_last` waits for it, some seconds."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            if is_last:
                self._changed.wait_for(lambda: self._done >= asked, _LAST_WAIT_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._done or self._is_closing)
                asked = self._asked
                if asked == self._done:
                    return
            self._submit()
            with self._changed:
                self._done = asked
                self._changed.notify_all()

    def _submit(self) -> None:
        """Run the process to its end; it says itself what went wrong."""
        # In a session of its own: a signal to our group, such as Ctrl-C, shouldn't end it half-way.
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(self._command, timeout=_TIMEOUT_S, check=False, start_new_session=True)


def main(words: Sequence[str]) -> int:
    """Submit what is due of a run (words: its folder, the attempt that trains it); return the exit
    status."""
    run, attempt = RunDir(Path(words[0])), int(words[1])
    try:
        steps = submit_due(run, attempt)
    except FencedError:
        return 0  # the newer attempt submits
    except (InputError, QueueError, OSError) as error:
        text = f"warning: the evaluation of a checkpoint wasn't submitted ({error}); it is tried "
        print(
            f"{text}again at the next one and at the end of training", file=sys.stderr, flush=True
        )
        return 1
    for step in steps:
        print(f"submitted the evaluation of {step_name(step)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
