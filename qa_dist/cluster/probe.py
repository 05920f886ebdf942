"""What jobs/doctor.py runs on nodes: one process on each tries what a training relies on.

    python -m qa_dist.cluster.probe FOLDER

In: FOLDER/asked.json. Out: FOLDER/report-<rank>.json, written anew as each part begins and ends, so
that a part that hangs or kills the process is known by what is missing. Judges nothing: that is
diagnosis.py's business. Torch is loaded where a part needs it.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from qa_dist.cluster.queue import QueueError, requeue, show_job
from qa_dist.cluster.slurm_job import SlurmJob, own_job_id
from qa_dist.files import read_json, read_status, write_json, write_status
from qa_dist.records import InputError

PARTS = ("facts", "signal", "folder", "network", "time_limit", "requeue")
PATIENCE_S = 60.0
"""How long a node waits for the other in one exchange."""
_SIGNAL_S = 30.0
_LATE_S = 20.0
_ROUNDS = 5
_POLL_S = 0.01
_PACKAGES = ("torch", "transformers", "accelerate", "numpy")
_GLOO_BYTES, _NCCL_BYTES = 16 << 20, 256 << 20


@dataclass(frozen=True)
class Asked:
    """What the doctor wants to know; asked.json."""

    parts: list[str]
    """Some of PARTS, in their order."""
    job: dict[str, Any]
    """The fields of the SlurmJob that a training's process would be."""
    model: str = ""
    """Encoder to look for: a folder or a hub name; empty: none."""

    def save(self, folder: Path) -> None:
        write_json(folder / "asked.json", asdict(self))


def read_reports(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what each rank reports so far: host, doing, and a dict for each part that is over."""
    return {int(path.stem.split("-")[1]): read_status(path) for path in folder.glob("report-*")}


def read_restarts(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what ranks say that were started again after a requeue."""
    return {int(path.stem.split("-")[1]): read_status(path) for path in folder.glob("restarted-*")}


class Warnings:
    """When USR2 came. A thread of its own waits for it, so that no long call delays the note."""

    def __init__(self) -> None:
        self.times: list[float] = []
        # Blocked first: it was ignored until now, and no moment may be left in which it would kill.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        threading.Thread(target=self._note, daemon=True).start()

    def _note(self) -> None:
        while True:
            signal.sigwait({signal.SIGUSR2})
            self.times.append(time.time())


class Probe:
    """One process of the probe."""

    def __init__(self, folder: Path, warnings: Warnings) -> None:
        self.folder, self._warnings = folder, warnings
        asked = read_json(folder / "asked.json")
        self._asked = Asked(**asked)
        self._job = SlurmJob(**asked["job"])
        self.environ = self._job.rank_environ()
        self.rank, self.world_size = int(self.environ["RANK"]), int(self.environ["WORLD_SIZE"])
        self._host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        self._report: dict[str, Any] = {"host": self._host}
        self._num_told = 0

    def run(self) -> None:
        """Try each part; one that fails leaves its error and doesn't keep the next from it."""
        restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        if restarts:
            path = self.folder / f"restarted-{self.rank}.json"
            write_status(path, {"restarts": restarts, "host": self._host})
            return
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "facts": self.facts,
            "signal": self.signal,
            "folder": self.shared_folder,
            "network": self.network,
            "time_limit": self.time_limit,
            "requeue": self.requeue,
        }
        for name in self._asked.parts:
            self._note(doing=name)
            try:
                found = parts[name]()
            except Exception as error:  # whatever it is, the doctor passes it on
                is_ours = type(error).__module__.startswith("qa_dist.")
                found = {"error": str(error) if is_ours else f"{type(error).__name__}: {error}"}
            self._note(**{name: found})
        self._note(doing="")

    def _note(self, **facts: Any) -> None:
        self._report |= facts
        write_status(self.folder / f"report-{self.rank}.json", self._report)

    # ---- the parts

    def facts(self) -> dict[str, Any]:
        """Versions, GPUs, room, and the encoder."""
        temp = tempfile.gettempdir()
        return {
            "versions": {**own_versions(), **_driver_version()},
            "gpus": _count_gpus() if self._job.has_gpus else 0,
            "cores": len(os.sched_getaffinity(0)),
            "offline": os.environ.get("HF_HUB_OFFLINE") == "1",
            "model": self._asked.model,
            "model_error": find_model(self._asked.model),
            "runs_free_gb": shutil.disk_usage(self.folder).free / 1e9,
            "temp": temp,
            "temp_free_gb": shutil.disk_usage(temp).free / 1e9,
        }

    def signal(self) -> dict[str, Any]:
        """Wait for the USR2 that the doctor sends to the whole job."""
        came = _wait_until(lambda: bool(self._warnings.times), _SIGNAL_S)
        self._num_told = len(self._warnings.times)
        return {"came": came}

    def shared_folder(self) -> dict[str, Any]:
        """See how fast the other node sees a renamed file, and whether it keeps out of a lock."""
        if self.world_size == 1:
            return {}
        return self._offer() if self.rank == 0 else self._follow()

    def _offer(self) -> dict[str, Any]:
        self._say_and_wait("ping", "pong", -1)  # the other one may not have come so far yet
        trips = [self._say_and_wait("ping", "pong", number) for number in range(_ROUNDS)]
        with (self.folder / "lock").open("a+") as stream:
            lock = _try_lock(stream)
            self._say_and_wait("ping", "pong", "held")
        self._say_and_wait("ping", "pong", "free")
        return {"seen_s": max(trips), "lock": lock}

    def _follow(self) -> dict[str, Any]:
        for number in range(-1, _ROUNDS):
            self._wait_and_say("ping", "pong", number)
        with (self.folder / "lock").open("a+") as stream:
            self._hear("ping", "held")
            while_held = _try_lock(stream)
        self._say("pong", "held")
        self._hear("ping", "free")
        with (self.folder / "lock").open("a+") as stream:
            _wait_until(lambda: _try_lock(stream) == "got", 10.0)
            after = _try_lock(stream)  # to lock what one holds already changes nothing
        self._say("pong", "free")
        return {"lock_while_held": while_held, "lock_after": after}

    def _say(self, name: str, value: int | str) -> None:
        write_status(self.folder / f"{name}.json", {"value": value})

    def _hear(self, name: str, value: int | str) -> None:
        path = self.folder / f"{name}.json"
        if not _wait_until(lambda: read_status(path).get("value") == value, PATIENCE_S):
            raise InputError(
                f"{self._host} didn't see within {PATIENCE_S:.0f} s that the other node "
                f"renamed a file to {path}"
            )

    def _say_and_wait(self, mine: str, theirs: str, value: int | str) -> float:
        began = time.monotonic()
        self._say(mine, value)
        self._hear(theirs, value)
        return time.monotonic() - began

    def _wait_and_say(self, theirs: str, mine: str, value: int) -> None:
        self._hear(theirs, value)
        self._say(mine, value)

    def network(self) -> dict[str, Any]:
        """Meet the other rank as a training does, and add up tensors."""
        os.environ.update(self.environ)
        import torch.distributed as dist

        from qa_dist.training.rendezvous import VARIABLE, join, own_address

        timeout = timedelta(seconds=PATIENCE_S)
        found: dict[str, Any] = {"address": own_address()}
        join(Path(os.environ[VARIABLE]), "gloo", self.rank, self.world_size, timeout)
        try:
            found["gloo_mb_per_s"] = _all_reduce_mb_per_s("cpu", _GLOO_BYTES)
            if self._job.has_gpus:
                group = dist.new_group(backend="nccl", timeout=timeout)
                found["nccl_mb_per_s"] = _all_reduce_mb_per_s("cuda", _NCCL_BYTES, group)
        finally:
            dist.destroy_process_group()
        return found

    def time_limit(self) -> dict[str, Any]:
        """Wait for the USR2 that comes before the time limit; say how long before."""
        ends_at = float(show_job(own_job_id())["EndTime"])
        last = ends_at - self._job.signal_lead_s + _LATE_S
        came = _wait_until(
            lambda: len(self._warnings.times) > self._num_told, last - time.time(), 0.2
        )
        return {"lead_s": ends_at - self._warnings.times[self._num_told] if came else None}

    def requeue(self) -> dict[str, Any]:
        """Put this job back into the queue, which ends this process if all is well."""
        if self.rank:
            _wait_until(lambda: "requeue" in read_reports(self.folder).get(0, {}), 2 * PATIENCE_S)
            return {}
        _wait_until(lambda: self._all_wait_for("requeue"), PATIENCE_S)
        try:
            requeue(own_job_id())
        except QueueError as error:
            return {"error": str(error)}
        time.sleep(PATIENCE_S)
        return {"error": f"nothing happened within {PATIENCE_S:.0f} s of `scontrol requeue`"}

    def _all_wait_for(self, part: str) -> bool:
        reports = read_reports(self.folder).values()
        return [one.get("doing") for one in reports] == [part] * self.world_size


def _wait_until(is_true: Callable[[], bool], seconds: float, every_s: float = _POLL_S) -> bool:
    give_up_at = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(every_s)
    return True


def _try_lock(stream: TextIO) -> str:
    """Return "got", "kept out", or why there are no locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "kept out"
    except OSError as error:
        return error.strerror or str(error)
    return "got"


def own_versions() -> dict[str, str]:
    """Return the versions of what must be the same everywhere."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _driver_version() -> dict[str, str]:
    words = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"driver": done.stdout.split("\n")[0].strip()}


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def find_model(name: str) -> str:
    """Return what is missing of an encoder's files; empty: nothing is."""
    if not name:
        return ""
    from huggingface_hub import try_to_load_from_cache

    from qa_dist.data.tokenizer import model_limit, tokenizer_digest

    try:
        model_limit(name)
        tokenizer_digest(name, None)
    except (OSError, InputError) as error:
        return str(error)
    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    folder = Path(name).expanduser()
    if folder.is_dir():
        is_there = any((folder / file).is_file() for file in weights)
    else:
        is_there = any(isinstance(try_to_load_from_cache(name, file), str) for file in weights)
    return "" if is_there else f"model.name={name}: its weights aren't there"


def _all_reduce_mb_per_s(device: str, size_bytes: int, group: Any = None) -> float | None:
    """Return how many MB each rank sends (and receives) in a second; None: it is alone."""
    import torch
    import torch.distributed as dist

    world_size = dist.get_world_size()
    tensor = torch.ones(size_bytes // 4, device=device)
    dist.all_reduce(tensor, group=group)
    if tensor[0].item() != world_size or tensor[-1].item() != world_size:
        raise InputError(f"ones of {world_size} ranks added up to {tensor[0].item()}")
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        dist.all_reduce(tensor, group=group)
    tensor[0].item()  # waits for the GPU
    seconds = time.perf_counter() - began
    if world_size == 1:
        return None
    return _ROUNDS * size_bytes * 2 * (world_size - 1) / world_size / seconds / 1e6


def main(argv: Sequence[str]) -> int:
    """Try what asked.json of the folder asks for."""
    warnings = Warnings()
    os.umask(0o077)
    Probe(Path(argv[0]), warnings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
