"""A process that has torch imported and forks the ones that tests kill: real processes, cheap
starts.

Importing torch and transformers takes seconds, a fork takes none. The zygote computes nothing
itself, so that no thread pool is inherited; a child sees one core, so that results don't depend on
the machine. A child is its own process group, writes to a file of its own, and ends with the exit
status of what it ran, or by the signal that killed it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "torch",
    "numpy",
    "accelerate",
    "safetensors.torch",
    "transformers.models.bert.modeling_bert",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
    "rich.console",
    "rich.table",
    "qa_dist.prepare",
    "qa_dist.training.loop",
    "qa_dist.evaluation.predict",
    "qa_dist.evaluation.aggregate",
    "qa_dist.cluster.pipeline",
)


@dataclass
class Child:
    """One forked process."""

    pid: int
    log: Path
    """What it wrote, both streams."""
    status: int | None = None
    """Exit status; -9: killed by signal 9; None: still running."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout_s: float = 120) -> int:
        """Return the exit status."""
        if not self._ended.wait(timeout_s):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"process {self.pid} hung; it wrote:\n{self.text}")
        assert self.status is not None
        return self.status

    def end(self, status: int) -> None:
        self.status = status
        self._ended.set()

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Zygote:
    """The test's end of the pipe."""

    def __init__(self, folder: Path, *more: str) -> None:
        """`more`: modules to import beside PRELOADED."""
        self._folder = folder
        self._children: dict[int, Child] = {}
        self._started: list[int] = []
        self._news = threading.Condition()
        self._number = 0
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def start(
        self,
        work: str,
        *words: str,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        typed: str = "",
    ) -> Child:
        """Fork a process that runs `work` on words; `typed`: a file with what stdin is to hold.

        "launch", "prepare", "evaluate", "aggregate" and "train_job" are jobs/*.py, "train" is one
        rank; "broken" and "breakpoint" are launches with something put in, "broken_train" a rank.
        """
        self._number += 1
        log = self._folder / f"{self._number:03d}-{work}.log"
        request = {"work": work, "words": words, "log": str(log), "env": env or {}, "typed": typed}
        with self._news:
            self._write({**request, "cwd": str(cwd or self._folder)})
            if not self._news.wait_for(lambda: self._started, 120):
                raise TimeoutError("the zygote doesn't answer")
            pid = self._started.pop()
            child = self._children[pid] = Child(pid, log)
            self._news.notify_all()
            return child

    def run(self, work: str, *words: str, **more: Any) -> Child:
        """Do the same, and wait for its end."""
        child = self.start(work, *words, **more)
        child.wait()
        return child

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)

    def _write(self, request: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            word, pid, number = line.split()
            if word == "started":
                with self._news:
                    self._started.append(int(pid))
                    self._news.notify_all()
            else:
                with self._news:
                    self._news.wait_for(lambda pid=int(pid): pid in self._children)
                    child = self._children[int(pid)]
                child.end(int(number))


# -- in the zygote -------------------------------------------------------------------------------


def _load_job(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"job_{name}", ROOT / "jobs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _train(words: Sequence[str]) -> int:
    from qa_dist.cluster.job import report_failure, run_stage
    from qa_dist.run_dir import RunDir

    run = RunDir(Path(words[0]))
    try:
        state = run_stage("train", run, 0)
    except BaseException as error:
        report_failure(run, "train", 0, error)
        raise
    return {"done": 0, "stopped": 75}[state]


def _break_order() -> None:
    from qa_dist.data.order import Order

    right = Order.micro_batches
    Order.micro_batches = (  # type: ignore[method-assign]
        lambda self, step: right(replace(self, seed=self.seed + 1), step)
    )


def _drop_a_window() -> None:
    from qa_dist.data.order import Order

    right = Order.micro_batches

    def micro_batches(self: Any, step: int) -> Any:
        parts = right(self, step)
        return [*parts[:-1], parts[-1][:-1]] if step == 6 else parts

    Order.micro_batches = micro_batches  # type: ignore[method-assign]


def _dont_seed_dropout() -> None:
    from qa_dist.training import steps

    steps.seed_generators = lambda seed: None


def _shift_learning_rate() -> None:
    from qa_dist.training import loop

    right = loop.learning_rate
    loop.learning_rate = lambda step, num_steps, train: right(step + 1, num_steps, train)


def _forget_moments() -> None:
    from qa_dist.training import layout

    layout.load_optimizer_tensors = lambda *_: None


BREAKS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "order": _break_order,
    "window": _drop_a_window,
    "dropout": _dont_seed_dropout,
    "learning_rate": _shift_learning_rate,
    "moments": _forget_moments,
}
"""Mechanisms switched off, for negative controls: work "broken", the name, words of a launch."""


def _run_child(request: dict[str, Any], works: dict[str, Callable[[Sequence[str]], int]]) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(request["typed"] or os.devnull, os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0, closefd=False)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        os.sched_getaffinity = lambda pid: {0}  # type: ignore[assignment]
        from qa_dist import faults

        faults.arm(os.environ.get(faults.VARIABLE, ""))
        status = works[request["work"]](request["words"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    for name in (*PRELOADED, *sys.argv[1:]):
        importlib.import_module(name)
    launch = _load_job("launch").main
    works = {"launch": launch, "train": _train}

    def broken(words: Sequence[str]) -> int:
        BREAKS[words[0]]()
        return int(launch(words[1:]))

    def with_breakpoint(words: Sequence[str]) -> int:
        from qa_dist.training import steps

        right, stops = steps.seed_generators, iter([True])

        def seed_generators(seed: int) -> None:
            right(seed)
            if next(stops, False):
                breakpoint()

        steps.seed_generators = seed_generators
        return int(launch(words))

    def broken_train(words: Sequence[str]) -> int:
        BREAKS[words[0]]()
        return _train(words[1:])

    works |= {"broken": broken, "breakpoint": with_breakpoint, "broken_train": broken_train}
    works |= {name: _load_job(name).main for name in ("prepare", "evaluate", "aggregate")}
    works["train_job"] = _load_job("train").main
    writing = threading.Lock()

    def say(*words: object) -> None:
        with writing:
            os.write(1, (" ".join(map(str, words)) + "\n").encode())

    def reap(pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        say("ended", pid, os.waitstatus_to_exitcode(status))

    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_child(request, works)
        say("started", pid, 0)
        threading.Thread(target=reap, args=(pid,), daemon=True).start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environ(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What a launcher sets for a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def wait_until(is_true: Callable[[], Any], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds."""
    give_up_at = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"waited {timeout_s} s in vain: {what}")
        time.sleep(0.02)


if __name__ == "__main__":
    _serve()
