"""Which run or sweep is meant: a folder, or recipe/name under the folder of runs; and all there
are.

What jobs/status.py, logs.py, cancel.py and retry.py understand on their command lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

from qa_dist.files import read_status
from qa_dist.records import InputError
from qa_dist.run_dir import SWEEP_ENDING, RunDir, SweepDir
from qa_dist.sweep import read_sweep

RUNS_DIR = "runs"


def read_words(
    argv: Sequence[str], most: int, flags: Collection[str] = ()
) -> tuple[list[str], set[str], Path]:
    """Return the words, the flags among them, and the folder of runs. Raises InputError."""
    words: list[str] = []
    given: set[str] = set()
    runs_dir = Path(RUNS_DIR)
    for word in argv:
        if word.startswith("runs_dir="):
            runs_dir = Path(word.partition("=")[2])
        elif word in flags:
            given.add(word)
        elif word.startswith("-"):
            known = ", ".join(flags) or "none"
            raise InputError(f"{word}: no such option; there are: {known}")
        else:
            words.append(word.removeprefix("run="))
    if len(words) > most:
        raise InputError(f"{' '.join(words[most:])}: not understood; --help shows what is")
    return words, given, runs_dir


def find_run(word: str, runs_dir: Path) -> RunDir:
    """Return the run of a folder's path or of recipe/name. Raises InputError with those there
    are."""
    for root in (Path(word), runs_dir / word):
        if (root / "run.json").is_file():
            return RunDir(root.absolute())
    if sweep := find_sweep(word, runs_dir):
        names = [f"{run.root.parent.name}/{run.root.name}" for run in sweep_runs(sweep)]
        raise InputError(f"{word}: is a sweep; give one of its runs: {', '.join(names) or 'none'}")
    there = [f"{run.root.parent.name}/{run.root.name}" for run in all_runs(runs_dir)]
    near = difflib.get_close_matches(word, there, n=1, cutoff=0.5) or there[:1]
    hint = f"; did you mean {near[0]}?" if near else f"; there is no run in {runs_dir}"
    raise InputError(f"{word}: holds no run.json and isn't recipe/name of a run{hint}")


def find_sweep(word: str, runs_dir: Path) -> SweepDir | None:
    """Return the sweep of a folder's path or of recipe/name; None: there is none, or there is a run
    of that name."""
    for root in (Path(word), runs_dir / word):
        if (root / "run.json").is_file():
            return None
        for folder in (root, Path(f"{root}{SWEEP_ENDING}")):
            if SweepDir(folder).sweep_json.is_file():
                return SweepDir(folder.absolute())
    return None


def sweep_runs(folder: SweepDir) -> list[RunDir]:
    """Return the runs of a sweep that have been launched."""
    sweep = read_sweep(folder)
    runs = [folder.run(member.name) for member in (sweep.members if sweep else ())]
    return [run for run in runs if run.run_json.is_file()]


def all_runs(runs_dir: Path) -> list[RunDir]:
    """Return all runs, newest first by what they say of when they were made."""
    runs = [RunDir(path.parent.absolute()) for path in runs_dir.glob("*/*/run.json")]
    return sorted(runs, key=_created, reverse=True)


def _created(run: RunDir) -> str:
    return str(read_status(run.run_json).get("created", ""))
