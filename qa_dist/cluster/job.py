"""One array element of a stage, as a process runs it: find the run on disk, do the element, leave a
clear word.

What submitit pickles is a StageJob: a stage's name, paths and numbers, nothing else. The process's
own log goes to logs/<stage>-<element>-<attempt>-<rank>.{out,err}; a failure ends up in
status/<stage>-<element>.json.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from qa_dist import faults
from qa_dist.attempts import FencedError
from qa_dist.cluster.out_of_memory import is_out_of_memory, memory_advice
from qa_dist.code_version import code_version
from qa_dist.files import read_status, write_status
from qa_dist.processes import is_alive, leave_torch_out, note_stop, quick_start
from qa_dist.profile import STAGES
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

STOP_S = 120.0
"""How long a process that was asked to stop may take to save, in seconds."""
_WATCH_S = 1.0
_INSIST_S = 1.0

Saved = Callable[[bool], None]
"""What training calls when a checkpoint is there: Readers.saved."""


class StopAskedError(BaseException):
    """A signal asked this process to stop; what it was doing is left undone, in order."""


def run_stage(stage: str, run: RunDir, element: int, saved: Saved = lambda is_last: None) -> str:
    """Do one element of a stage in this process; return "done", or "stopped" if a signal ended it
    in order."""
    # Imported here: a submit must not load torch.
    if stage == "prepare":
        from qa_dist.prepare import prepare_element

        prepare_element(run, element)
    elif stage == "train":
        with quick_start():
            from qa_dist.evaluation.elements import awaited_steps
            from qa_dist.training.journal import Readers
            from qa_dist.training.loop import train

        return train(run, Readers(awaited_steps, saved))
    elif stage == "evaluate":
        with quick_start():
            from qa_dist.evaluation.predict import evaluate_element

        evaluate_element(run, element)
    elif stage == "aggregate":
        from qa_dist.evaluation.aggregate import aggregate

        aggregate(run)
    else:
        raise InputError(f"stage={stage}: expected one of {', '.join(STAGES)}")
    return "done"


def report_failure(run: RunDir, stage: str, element: int, error: BaseException) -> None:
    """Write a failure to the element's status file: the message of an error of ours, else the
    traceback's end.

    That another rank is gone is only said where nobody said more: the one that failed first breaks
    its peers' calls.
    """
    if isinstance(error, FencedError):
        return  # the status is another attempt's now
    path = run.status_file(stage, element)
    facts = read_status(path)
    attempt = os.environ.get(faults.ATTEMPT_VARIABLE)
    if attempt and int(facts.get("attempt") or 0) > int(attempt):
        return  # so it is, though nobody told us
    if getattr(error, "is_consequence", False) and facts.get("state") == "failed":
        return
    text = str(error)
    if is_out_of_memory(error):
        text = memory_advice(run, stage, error)
    elif not type(error).__module__.startswith("qa_dist."):
        lines = "".join(traceback.format_exception(error)).strip().splitlines()
        text = "\n".join(lines[-12:])
    write_status(path, {**facts, "state": "failed", "error": text, "updated_at": time.time()})


@dataclass(frozen=True)
class StageJob:
    """Called in the job's own processes, once per rank; where ranks learn of each other is its
    subclasses' business."""

    stage: str
    run: str
    """The run's folder."""
    element: int
    attempt: int
    """Number of the launch's attempt; on SLURM each new start of the job counts one further."""
    threads: int
    """Threads of each process; 0: as many as it has cores."""

    def __call__(self) -> str:
        """Run the element; raise what went wrong, after saying so in the status file."""
        os.umask(0o077)
        run = RunDir(Path(self.run))
        environ = self.rank_environ()
        attempt, rank = environ["QA_DIST_ATTEMPT"], int(environ["RANK"])
        self._redirect(run, f"{self.stage}-{self.element}-{attempt}-{rank}")
        print(
            f"# {self.stage} {self.element}, attempt {attempt}, rank {rank}, code {code_version()}",
            flush=True,
        )
        threads = self.threads or len(os.sched_getaffinity(0))
        os.environ.update(
            environ,
            OMP_NUM_THREADS=str(threads),
            # Threads that spin while they wait make a busy machine many times slower.
            OMP_WAIT_POLICY="PASSIVE",
            RAYON_NUM_THREADS=str(threads),
            TOKENIZERS_PARALLELISM="true" if threads > 1 else "false",
        )
        # Submitit's own handlers would swallow it; training sets its own when it can. One of
        # several ranks mustn't leave while the others wait for it.
        handler = note_stop if int(environ["WORLD_SIZE"]) > 1 else _stop
        for signum in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(signum, handler)
        faults.reach("job.start")
        self.start()
        try:
            with self.following(run) as saved:
                try:
                    if self.stage == "prepare":
                        leave_torch_out()
                    state = run_stage(self.stage, run, self.element, saved)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        except StopAskedError:
            state = "stopped"
            if rank == 0:
                path = run.status_file(self.stage, self.element)
                write_status(path, {**read_status(path), "state": "stopped"})
        except BaseException as error:
            report_failure(run, self.stage, self.element, error)
            raise
        if state == "stopped" and rank == 0:
            self.stopped(run)
        return state

    def rank_environ(self) -> dict[str, str]:
        """Return QA_DIST_ATTEMPT, RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, how ranks meet,
        and the GPUs."""
        raise NotImplementedError

    def start(self) -> None:
        """Do what is to be done before the stage."""

    @contextmanager
    def following(self, run: RunDir) -> Iterator[Saved]:
        """Yield what training is to call when a checkpoint is there."""
        yield lambda is_last: None

    def stopped(self, run: RunDir) -> None:
        """Do what is to be done after a stop in order, on rank 0."""

    def _redirect(self, run: RunDir, name: str) -> None:
        """Send stdout and stderr to this attempt's own log files."""
        run.logs.mkdir(parents=True, exist_ok=True)
        for handle, ending in ((1, "out"), (2, "err")):
            log = os.open(
                run.logs / f"{name}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
            )
            os.dup2(log, handle)
            os.close(log)


@dataclass(frozen=True)
class LocalJob(StageJob):
    """A job of this machine, under submitit's local executor."""

    launcher_pid: int
    """Stop in order when this process is gone (a launcher that was killed must not leave work
    behind); 0: don't."""
    master_port: int
    """Where ranks of one machine meet."""
    gpus: str = ""
    """The GPUs of all ranks, as CUDA_VISIBLE_DEVICES has them; empty: none."""

    def rank_environ(self) -> dict[str, str]:
        world_size = os.environ.get("SUBMITIT_LOCAL_NTASKS", "1")
        return {
            "QA_DIST_ATTEMPT": str(self.attempt),
            "RANK": os.environ.get("SUBMITIT_LOCAL_GLOBALID", "0"),
            "LOCAL_RANK": os.environ.get("SUBMITIT_LOCAL_LOCALID", "0"),
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.master_port),
            "CUDA_VISIBLE_DEVICES": self.gpus,
        }

    def start(self) -> None:
        if self.launcher_pid:
            threading.Thread(target=_watch, args=(self.launcher_pid,), daemon=True).start()


def _stop(signum: int, frame: FrameType | None) -> None:
    note_stop(signum, frame)
    for again in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(again, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _insist)
    signal.setitimer(signal.ITIMER_REAL, _INSIST_S, _INSIST_S)
    raise StopAskedError


def _insist(signum: int, frame: FrameType | None) -> None:
    """Raise again, unless what it was raised in is just being left: Python drops an exception that
    comes while an object is being deleted."""
    if not isinstance(sys.exc_info()[1], StopAskedError):
        raise StopAskedError


def _watch(pid: int) -> None:
    """Send ourselves SIGTERM once process `pid` is gone; and SIGKILL if that doesn't end us."""
    while is_alive(pid):
        time.sleep(_WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os.kill(os.getpid(), signal.SIGKILL)
