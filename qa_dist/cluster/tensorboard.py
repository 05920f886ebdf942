"""Show runs' curves by TensorBoard: as a process of this machine, or as a small SLURM job to which
an ssh tunnel leads.

In: runs. Several are shown side by side: TensorBoard is given a folder of links, so that a run that
hasn't written a curve yet appears when it does. It listens on 127.0.0.1 only. Changes no run.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qa_dist.cluster.queue import QueueError, cancel, queued_jobs
from qa_dist.cluster.reasons import is_running, why_waiting
from qa_dist.cluster.run_logs import last_lines
from qa_dist.cluster.slurm import exported_names, submit_script
from qa_dist.cluster.snapshot import CODE
from qa_dist.profile import Profile, resources_of
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

HOST = "127.0.0.1"
_SCRIPT = CODE / "slurm" / "tensorboard.sbatch"
_MOST_MIN = 480
"""A job that nobody looks at any more ends after a working day."""
_START_S = 120.0
_STOP_S = 10.0
_POLL_S = 0.2
_TUNNEL, _ADDRESS = "on your own computer:", "then open:"


def link_runs(folder: Path, runs: Sequence[RunDir]) -> None:
    """Fill `folder` with <recipe>/<name> -> the run's TensorBoard folder."""
    for run in runs:
        link = folder / run.root.parent.name / run.root.name
        while link.is_symlink():  # the same name under another folder of runs
            link = link.with_name(f"{link.name}-again")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(run.tensorboard.absolute())


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Raise InputError if somebody listens on a port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port={port}: can't be used ({error.strerror}); give another one, or none"
            ) from error


# ---- on this machine


@contextmanager
def serving(runs: Sequence[RunDir], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run TensorBoard as long as the context lasts; it answers when the context begins."""
    check_port(port)
    with tempfile.TemporaryDirectory(prefix="qa-dist-tensorboard-") as name:
        folder, log = Path(name) / "runs", Path(name) / "log"
        folder.mkdir()
        link_runs(folder, runs)
        words = ["--logdir", str(folder), "--host", HOST, "--port", str(port)]
        with log.open("wb") as stream:
            server = subprocess.Popen(
                [sys.executable, "-m", "tensorboard.main", *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,  # else its own name might be found here
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        try:
            _wait_until_it_answers(server, port, log)
            yield server
        finally:
            server.terminate()
            try:
                server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < give_up_at:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(_POLL_S)
    words = " | ".join(last_lines(log, 2)) or f"no answer on port {port} within {_START_S:.0f} s"
    raise InputError(f"TensorBoard didn't start: {words}")


def address_lines(port: int) -> list[str]:
    """Return the address to open, and behind ssh the tunnel that leads to it."""
    url = f"http://{HOST}:{port}"
    if "SSH_CONNECTION" not in os.environ:
        return [url]
    tunnel = f"ssh -N -L {port}:{HOST}:{port} {socket.gethostname()}"
    return [f"{_TUNNEL}  {tunnel}", f"{_ADDRESS}             {url}"]


# ---- as a job


def submit(runs: Sequence[RunDir], profile: Profile, port: int) -> tuple[int, Path]:
    """Submit slurm/tensorboard.sbatch with the profile's resources; return the job's id and its
    log. `port` 0: one that is free there. Raises QueueError."""
    asked = resources_of(profile, "aggregate")
    runs[0].logs.mkdir(parents=True, exist_ok=True)
    log = runs[0].logs.absolute() / "tensorboard-%j.log"
    os.environ["QA_DIST_PYTHON"] = sys.executable
    own = ["QA_DIST_PYTHON"]
    if profile.env_file:
        os.environ["QA_DIST_ENV_FILE"] = str(Path(profile.env_file).expanduser().absolute())
        own.append("QA_DIST_ENV_FILE")
    if port:
        os.environ["QA_DIST_PORT"] = str(port)
        own.append("QA_DIST_PORT")
    options = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "cpus-per-task": asked.cpus_per_task,
        "mem": f"{round(asked.mem_gb * 1000)}M" if asked.mem_gb else "",
        "time": min(_MOST_MIN, asked.timeout_min),
        "output": log,
        "export": ",".join([*exported_names(), *own]),
    }
    words = [f"--{name}={value}" for name, value in options.items() if value]
    job = submit_script(_SCRIPT, words, [str(run.root.absolute()) for run in runs])
    return job, Path(str(log).replace("%j", str(job)))


def wait_for_job(job: int, log: Path, tell: Callable[[str], None]) -> list[str]:
    """Wait until the job says where it is found; return its lines. Cancels it if interrupted.
    Raises InputError if it ends before."""
    said = ""
    try:
        while True:
            found = next(iter(queued_jobs([job])), None)  # first, as what ended has written all
            lines = last_lines(log, 100)
            shown = [line for line in lines if line.startswith((_TUNNEL, _ADDRESS))]
            if len(shown) >= 2:
                return shown
            if found is None or not found.is_alive:
                why = " | ".join(lines[-2:]) or "without a word"
                raise InputError(f"job {job} ended: {why}; its log is {log}")
            if not is_running(found) and (why := why_waiting(found)) != said:
                tell(f"job {job} waits: {why}")
                said = why
            time.sleep(_POLL_S * 2)
    except (KeyboardInterrupt, InputError, QueueError):
        cancel([job])
        raise
