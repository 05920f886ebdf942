"""Every path of a run and of prepared data, in one place: who needs a path asks here.

    runs/<recipe>/<name>/      recipe.yaml run.json status/ checkpoints/ predictions/ scores/ ...
    runs/<recipe>/<name>.sweep/    sweep.json results.json results.md; its runs lie beside it
    prepared/<fingerprint>/    <split>-00003-of-00032/ and the index of records

Knows names only: what is inside the files is their owners' business.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from qa_dist.records import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_NAME_CHARS = 64
SWEEP_ENDING = ".sweep"


def check_name(name: str, what: str) -> str:
    """Return `name`, or raise InputError: names become folders and job names, so few characters are
    let in."""
    if not NAME.fullmatch(name) or ".." in name:
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise InputError(
            f"{what}={shown!r}: a name starts with a letter or digit and holds at most 64 of A-Z "
            "a-z 0-9 . _ -"
        )
    return name


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Return e.g. "train-00003-of-00032"."""
    return f"{split}-{index:05d}-of-{num_shards:05d}"


def step_name(step: int) -> str:
    """Return e.g. "step-00004000"."""
    return f"step-{step:08d}"


def make_private_folder(folder: Path) -> Path:
    """Make `folder` (and its parents) with mode 0700; refuse a link and one that others can write
    to or own."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private_folder(folder)
    except FileExistsError:
        check_private_folder(folder)  # says what is there instead of a folder
        raise
    except OSError as error:
        shown = str(folder) if len(str(folder)) <= 200 else f"{str(folder)[:197]}..."
        raise InputError(
            f"{shown}: can't be made ({error.strerror}); choose another place with runs_dir="
        ) from error
    return folder


def check_private_folder(folder: Path) -> None:
    """Raise InputError if `folder` is a symbolic link, belongs to someone else, or others can write
    to it.

    Job folders hold pickles: who can write there runs code as their owner (faults.md X1, S16).
    """
    info = folder.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise InputError(f"{folder}: is a symbolic link; give the real folder instead")
    if not stat.S_ISDIR(info.st_mode):
        raise InputError(
            f"{folder}: is not a folder; move it away, or choose another place with runs_dir="
        )
    if info.st_uid != os.getuid():
        raise InputError(
            f"{folder}: belongs to another user (uid {info.st_uid}); choose another place with "
            "runs_dir="
        )
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(f"{folder}: others can write to it; run `chmod go-w {folder}` first")


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs.json"

    @property
    def status(self) -> Path:
        return self.root / "status"

    def status_file(self, stage: str, index: int) -> Path:
        return self.status / f"{stage}-{index}.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    def predictions_file(self, step: int, shard: str) -> Path:
        return self.predictions / step_name(step) / f"{shard}.jsonl"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    def scores_file(self, step: int) -> Path:
        return self.scores / f"{step_name(step)}.json"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def scalars(self) -> Path:
        return self.root / "scalars.jsonl"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@dataclass(frozen=True)
class SweepDir:
    """Paths of a sweep: what its runs have in common. It holds no run.json, so it is no run."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name.removesuffix(SWEEP_ENDING)

    @property
    def sweep_json(self) -> Path:
        return self.root / "sweep.json"

    @property
    def results_json(self) -> Path:
        return self.root / "results.json"

    @property
    def results_md(self) -> Path:
        return self.root / "results.md"

    def run(self, name: str) -> RunDir:
        """Return one of its runs, which lie beside it."""
        return RunDir(self.root.parent / name)


@dataclass(frozen=True)
class PreparedDir:
    """Paths of one prepared data set, shared by all runs with the same data, tokenizer and
    windowing."""

    root: Path
    fingerprint: str

    @property
    def folder(self) -> Path:
        return self.root / self.fingerprint

    def shard(self, split: str, index: int, num_shards: int) -> Path:
        return self.folder / shard_name(split, index, num_shards)
