"""The log files of one element of a run: which there are, the newest attempt's, their last lines.

Names: logs/<stage>-<element>-<attempt>-<rank>.{out,err}, written by the job's own processes, and
logs/submitit/<job>[_<index>]_*_log.{out,err}, what was said before they had theirs. Ordered by
attempt, never by time.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from qa_dist.run_dir import RunDir

_TAIL_BYTES = 1 << 16
_NOISE = re.compile(r"submitit (INFO|WARNING)|srun: (got SIGCONT|forcing|Job step aborted)")
_NAME = re.compile(r"([a-z]+)-(\d+)-(\d+)-(\d+)\.(out|err)")


@dataclass(frozen=True, order=True)
class LogFile:
    """One rank's stdout or stderr in one attempt."""

    attempt: int
    rank: int
    kind: str
    """"err" or "out"."""
    path: Path


def log_files(run: RunDir, stage: str, element: int) -> list[LogFile]:
    """Return the logs of an element's newest attempt, by rank, stderr before stdout."""
    found = []
    for name in _names(run.logs):
        match = _NAME.fullmatch(name)
        if match and match[1] == stage and int(match[2]) == element:
            found.append(LogFile(int(match[3]), int(match[4]), match[5], run.logs / name))
    newest = max((log.attempt for log in found), default=0)
    return sorted(log for log in found if log.attempt == newest)


def scheduler_logs(run: RunDir, job: int, index: int | None) -> list[Path]:
    """Return what srun and the job script of a SLURM job left: their errors, then their output."""
    start = f"{job}_" if index is None else f"{job}_{index}_"
    folder = run.logs / "submitit"
    names = [
        n for n in _names(folder) if n.startswith(start) and n.endswith(("_log.err", "_log.out"))
    ]
    return [folder / name for name in sorted(names, key=lambda n: (n[-3:], n))]


def begun_jobs(run: RunDir) -> set[str]:
    """Return the SLURM jobs of a run that began, as "12" or "12_3": each has a log then."""
    found = set()
    for name in _names(run.logs / "submitit"):
        job, _, rest = name.removesuffix("_log.err").rpartition("_")
        if name.endswith("_log.err") and rest.isdigit():
            found.add(job)
    return found


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a file that aren't empty; its end alone is read."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def last_words(run: RunDir, stage: str, element: int, job: tuple[int, int | None] | None) -> str:
    """Return the last lines that an element's processes wrote, and SLURM about them; empty:
    none."""
    logs = [log.path for log in log_files(run, stage, element) if log.kind == "err"]
    if job:
        logs = [*scheduler_logs(run, *job)[:1], *logs]
    found = [[x for x in last_lines(path, 20) if not _NOISE.search(x)][-3:] for path in logs]
    return "\n".join([line for lines in found for line in lines][-6:])


def slurms_words(run: RunDir, job: tuple[int, int | None]) -> str:
    """Return the last line in which SLURM itself said in a job's log how it ends; empty: none."""
    lines = [x for path in scheduler_logs(run, *job)[:1] for x in last_lines(path, 50)]
    return next((x for x in reversed(lines) if "***" in x or "oom" in x.lower()), "")
