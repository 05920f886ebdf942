"""run.json: what a run is, and which attempt of it may still publish.

Attempts are numbered; a job that starts takes its number for the run, and whoever holds a lower one
is refused from then on (a fencing token): on a cluster the tasks of a lost node may live on beside
those that replaced them. Changes are made under run.lock, one writer at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qa_dist.files import canonical_json, read_json, write_json
from qa_dist.lock import locked
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

_WAIT_S = 30.0
_LOG = re.compile(r"[a-z]+-\d+-(\d+)-\d+\.out")


class FencedError(InputError):
    """A newer attempt has taken over; this one must not publish anything more."""


def update_run(run: RunDir, **facts: Any) -> None:
    """Put facts into run.json that weren't there."""
    with _writing(run) as there:
        there |= facts


def new_attempt(run: RunDir) -> int:
    """Count one more start of the run, whose jobs have not yet run out of time; return its number,
    from 1."""
    with _writing(run) as there:
        there["attempt"] = 1 + max(there["attempt"], _newest_logged(run))
        there.pop("timeouts", None)
        return int(there["attempt"])


def _newest_logged(run: RunDir) -> int:
    """Return the highest attempt that has logs: array elements that SLURM starts again count on by
    themselves."""
    names = (_LOG.fullmatch(path.name) for path in run.logs.glob("*.out"))
    return max((int(match[1]) for match in names if match), default=0)


def count_timeout(run: RunDir, stage: str, element: int) -> int:
    """Count that a job ran into its time limit; return how often that was since the launch."""
    with _writing(run) as there:
        counts = there.setdefault("timeouts", {})
        name = f"{stage}-{element}"
        counts[name] = counts.get(name, 0) + 1
        return int(counts[name])


@contextmanager
def _writing(run: RunDir) -> Iterator[dict[str, Any]]:
    """Yield run.json to be changed; written afterwards if it was."""
    with locked(run.root / "run.lock", "run.json is being written", _WAIT_S, lambda text: None):
        there = read_json(run.run_json)
        before = canonical_json(there)
        yield there
        if canonical_json(there) != before:
            write_json(run.run_json, there)


def take_over(run: RunDir, attempt: int) -> None:
    """Make `attempt` the one that may publish. Raises FencedError if a newer one has been."""
    with _writing(run) as there:
        if attempt < int(there["attempt"]):
            raise _fenced(run, int(there["attempt"]), attempt)
        there["attempt"] = attempt


def check_attempt(run: RunDir, run_id: str, attempt: int) -> None:
    """Raise FencedError if a newer attempt, or another run of this name, has taken over."""
    facts = read_json(run.run_json)
    if (facts["id"], facts["attempt"]) != (run_id, attempt):
        raise _fenced(run, facts["attempt"], attempt)


def _fenced(run: RunDir, newest: int, attempt: int) -> FencedError:
    return FencedError(
        f"{run.root}: attempt {newest} has taken over; attempt {attempt} ends here, without "
        "publishing anything more"
    )
