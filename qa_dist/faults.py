"""Injection points: named places where a test can kill, stop, delay or starve a real process.

Inert unless the environment variable QA_DIST_FAULT is set when Python starts. Its syntax: specs
separated by "|", fields of one spec by ";" (so neither clashes with a list of names in commas):

    point=checkpoint.after_files;rank=1;step=7;attempt=0;action=kill9|point=train.step;action=usr2

What fires is written to the file QA_DIST_FAULT_LOG, fsynced, before it acts: a test can then assert
that its fault happened. Knows nothing of what the points mean.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "QA_DIST_FAULT"
LOG_VARIABLE = "QA_DIST_FAULT_LOG"
ATTEMPT_VARIABLE = "QA_DIST_ATTEMPT"

_SIGNALS = {
    "kill9": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "term": signal.SIGTERM,
    "usr2": signal.SIGUSR2,
}
_ACTIONS = (*_SIGNALS, "raise", "enospc", "nan", "sleep:SECONDS")


@dataclass
class Spec:
    """One fault to inject; a field that is None matches everything."""

    point: str
    action: str
    rank: int | None = None
    """Global rank, from RANK or SLURM_PROCID."""
    step: int | None = None
    """Training step; such a spec never fires at a point that is reached without a step."""
    attempt: int | None = None
    """Start of the job, from 0: QA_DIST_ATTEMPT or SLURM_RESTART_COUNT."""
    after: int = 0
    """How many matching arrivals to let pass first."""
    times: int = 1
    """How often it fires in one process, then never again."""


def read_specs(text: str) -> list[Spec]:
    """Parse the value of QA_DIST_FAULT; a fault that is misspelt would never fire, so it raises."""
    return [_read_spec(part) for part in text.split("|") if part.strip()]


def _read_spec(text: str) -> Spec:
    fields = dict(field.strip().partition("=")[::2] for field in text.split(";") if field.strip())
    numbers = {"rank", "step", "attempt", "after", "times"}
    if unknown := set(fields) - numbers - {"point", "action"}:
        raise ValueError(f"{VARIABLE}: unknown field {sorted(unknown)[0]!r} in {text!r}")
    if not fields.get("point"):
        raise ValueError(f"{VARIABLE}: no point= in {text!r}")
    action = fields.get("action", "")
    if action not in _SIGNALS and action not in ("raise", "enospc", "nan"):
        name, _, seconds = action.partition(":")
        try:
            is_sleep = name == "sleep" and float(seconds) >= 0
        except ValueError:
            is_sleep = False
        if not is_sleep:
            raise ValueError(f"{VARIABLE}: action={action!r} in {text!r} is none of {_ACTIONS}")
    given = {name: int(fields[name]) for name in numbers & set(fields)}
    return Spec(fields["point"], action, **given)


_specs: list[Spec] = read_specs(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """Replace what this process injects, as if Python had started with QA_DIST_FAULT=`text`."""
    _specs[:] = read_specs(text)


def reach(point: str, step: int | None = None) -> str | None:
    """Inject what is asked for at `point`; return "nan" if the caller is to use a NaN, else None.

    Raises RuntimeError (action raise) or OSError with ENOSPC (action enospc); signals go to this
    very process, so after kill9 nothing returns.
    """
    if not _specs:
        return None
    for spec in _specs:
        if _matches(spec, point, step):
            if spec.after > 0:
                spec.after -= 1
                continue
            spec.times -= 1
            _log(point, spec.action, step)
            if (result := _act(point, spec.action)) is not None:
                return result
    return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return what has fired, oldest first; empty if nothing has."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def current_rank(environ: Mapping[str, str] = os.environ) -> int:
    """Return this process's global rank; 0 where no launcher has set one."""
    return int(environ.get("RANK") or environ.get("SLURM_PROCID") or 0)


def current_attempt(environ: Mapping[str, str] = os.environ) -> int:
    """Return which start of the job this is, from 0."""
    return int(environ.get(ATTEMPT_VARIABLE) or environ.get("SLURM_RESTART_COUNT") or 0)


def _matches(spec: Spec, point: str, step: int | None) -> bool:
    return (
        spec.point == point
        and spec.times > 0
        and spec.step in (None, step)
        and spec.rank in (None, current_rank())
        and spec.attempt in (None, current_attempt())
    )


def _log(point: str, action: str, step: int | None) -> None:
    """Append one line, in a single write: several ranks may share the file."""
    path = os.environ.get(LOG_VARIABLE)
    if not path:
        return
    facts: dict[str, Any] = {"point": point, "action": action, "step": step}
    facts |= {
        "pid": os.getpid(),
        "rank": current_rank(),
        "attempt": current_attempt(),
        "time": time.time(),
    }
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, (json.dumps(facts) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _act(point: str, action: str) -> str | None:
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
    elif action == "raise":
        raise RuntimeError(f"injected fault at {point}")
    elif action == "enospc":
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (injected at {point})")
    elif action == "nan":
        return "nan"
    else:
        time.sleep(float(action.partition(":")[2]))
    return None
