"""Sweeps: runs that differ in a few settings. Their names, and sweep.json, which says what a sweep
consists of.

A run's name is a function of its own values alone, so that another seed added later leaves the
others as they are. How runs get on is their own files' business. Loads nothing that takes time, as
jobs/status.py asks too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qa_dist.files import read_status, write_json
from qa_dist.recipe import Recipe
from qa_dist.recipe_fields import leaf_paths
from qa_dist.run_dir import MAX_NAME_CHARS, RunDir, SweepDir

SEED = "train.seed"
_HASH_CHARS = 8
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+|\.\.+")

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str
    values: dict[str, Value]
    """What it has of each swept setting, by full key; the seed last."""


def show(value: Value) -> str:
    """Return a value as text, the same for all ways of writing it: 1e-05 for 0.00001."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value + 0.0) if isinstance(value, float) else str(value)  # + 0.0: -0.0 is 0.0


def run_name(name: str, values: Mapping[str, Value]) -> str:
    """Return e.g. "main-learning_rate_3e-05-seed_1"; what is too long ends in a hash of it all."""
    parts = [name, *(f"{label(path)}_{_safe(show(value))}" for path, value in values.items())]
    whole = "-".join(parts)
    if len(whole) <= MAX_NAME_CHARS:
        return whole
    return f"{whole[: MAX_NAME_CHARS - 1 - _HASH_CHARS]}-{_hash(whole)}"


def label(path: str) -> str:
    """Return the last word of a setting's key, if no other setting is called so; else the whole
    key."""
    last = path.rpartition(".")[2]
    same = [other for other in leaf_paths(Recipe) if other.rpartition(".")[2] == last]
    return last if same == [path] else path


def _safe(text: str) -> str:
    """Return a text for a name; a hash tells apart what looks the same then."""
    safe = _UNSAFE.sub("-", text.rpartition("/")[2])
    return safe if safe == text else f"{safe}-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]


# ---- on disk


@dataclass(frozen=True)
class Sweep:
    """What sweep.json says."""

    recipe: str
    keys: list[str]
    """The settings that its runs differ in."""
    members: list[Member]


def read_sweep(folder: SweepDir) -> Sweep | None:
    """Return what a sweep consists of; None if there is none (or if it can't be read)."""
    facts = read_status(folder.sweep_json)
    if not facts:
        return None
    members = [Member(run["name"], run["values"]) for run in facts["runs"]]
    return Sweep(facts["recipe"], facts["keys"], members)


def write_sweep(folder: SweepDir, recipe: str, members: Iterable[Member]) -> None:
    """Write sweep.json: these runs, each once."""
    runs = {member.name: {"name": member.name, "values": member.values} for member in members}
    keys = list(next(iter(runs.values()))["values"])
    facts = {"name": folder.name, "recipe": recipe, "keys": keys, "runs": list(runs.values())}
    write_json(folder.sweep_json, facts)


def sweeps_of(run: RunDir) -> list[SweepDir]:
    """Return the sweeps that a run belongs to."""
    found = []
    for path in sorted(run.root.parent.glob("*.sweep/sweep.json")):
        sweep = read_sweep(SweepDir(path.parent))
        if sweep and any(member.name == run.root.name for member in sweep.members):
            found.append(SweepDir(path.parent))
    return found
