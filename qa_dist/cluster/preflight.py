"""What a cluster would refuse, or fail of in the middle of the night, said before anything is
queued.

In: a profile, a recipe and where its run will lie. Out: all problems at once, each with the key to
change. Asks the controller (and accounting, where there is one); submits nothing.
"""

from __future__ import annotations

import getpass
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qa_dist.cluster.forecast import checkpoint_gb
from qa_dist.cluster.queue import QueueError, run_slurm
from qa_dist.profile import STAGES, Profile, resources_of
from qa_dist.recipe import Recipe
from qa_dist.recipe_fields import did_you_mean
from qa_dist.records import InputError


def check_cluster(profile: Profile, recipes: Sequence[Recipe], folder: Path) -> None:
    """Raise InputError with all that is wrong with a launch of runs to be kept in `folder`."""
    try:
        problems = find_problems(profile, recipes, folder)
    except QueueError as error:
        raise InputError(
            f"the cluster doesn't answer ({error}); nothing was submitted. Try again later, or "
            "profile=local to run on this machine"
        ) from error
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise InputError(f"profile={profile.name}: nothing was submitted:{lines}")


def find_problems(profile: Profile, recipes: Sequence[Recipe], folder: Path) -> list[str]:
    """Return a sentence for each thing that a launch of these recipes' runs would fail of, all to
    be kept in `folder`. Raises QueueError."""
    found = [*_check_partitions(profile, read_partitions()), *_check_account(profile)]
    found += _check_disk(recipes, folder)
    return list(dict.fromkeys(found))


def read_partitions() -> dict[str, dict[str, str]]:
    """Return scontrol's facts of each partition, by name."""
    found = {}
    for line in run_slurm("scontrol", "show", "partition", "-o").splitlines():
        facts = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if "PartitionName" in facts:
            found[facts["PartitionName"]] = facts
    return found


def _check_partitions(
    profile: Profile, partitions: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    default = next((n for n, facts in partitions.items() if facts.get("Default") == "YES"), "")
    for stage in STAGES:
        asked = resources_of(profile, stage)
        own = stage != "train" and getattr(profile, stage).partition
        key = f"{stage}.partition" if own else "partition"
        for name in (asked.partition or default).split(","):
            facts = partitions.get(name)
            if not name:
                yield f"{key}=: expected one of {', '.join(partitions)}: there is no default"
            elif facts is None:
                meant = did_you_mean(name, list(partitions))
                yield f"{key}={name}: there is none of that name{meant}"
            else:
                yield from _check_limits(profile, stage, name, facts)


def _check_limits(
    profile: Profile, stage: str, name: str, facts: Mapping[str, str]
) -> Iterator[str]:
    if facts.get("State", "UP") != "UP":
        yield f"partition={name}: it is {facts['State'].lower()} and starts nothing"
    limit, asked = minutes(facts.get("MaxTime", "")), resources_of(profile, stage).timeout_min
    if limit is not None and asked > limit:
        yield (
            f"timeout_min={asked}: {name} lets jobs run {limit} minutes at most; lower it: what "
            "isn't done by then goes on in another job"
        )
    nodes = int(facts.get("TotalNodes", "0"))
    if stage == "train" and profile.nodes > nodes:
        yield f"nodes={profile.nodes}: {name} has {nodes}"


def minutes(text: str) -> int | None:
    """Return the minutes of e.g. "1-00:00:00"; None: no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):\d+", text)
    if not match:
        return None
    days, hours, rest = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + rest


def _check_account(profile: Profile) -> Iterator[str]:
    """Compare what is asked for with what accounting lets this user use; says nothing where there
    is none."""
    stages = [resources_of(profile, stage) for stage in STAGES]
    asked = [("account", each.account) for each in stages if each.account]
    asked += [("qos", each.qos) for each in stages if each.qos]
    if not asked:
        return
    try:
        text = run_slurm(
            "sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}",
            "format=Account,QOS",
        )  # fmt: skip
    except QueueError:
        return
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    known = {
        "account": sorted({row[0] for row in rows if row[0]}),
        "qos": sorted({name for row in rows for name in row[1].split(",") if name}),
    }
    for what, name in asked:
        there = known[what]
        if there and name not in there:
            yield f"{what}={name}: you may use {', '.join(there)}{did_you_mean(name, there)}"


def _check_disk(recipes: Sequence[Recipe], folder: Path) -> Iterator[str]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    counts = [recipe.train.keep_checkpoints + 2 for recipe in recipes]
    sizes = [checkpoint_gb(recipe) for recipe in recipes]
    needed = sum(num * size for num, size in zip(counts, sizes, strict=True))
    if free < needed:
        yield (
            f"runs_dir={folder}: {free:.1f} GB are free, and {sum(counts)} "
            f"checkpoints take some {needed:.1f} GB; make room, or lower train.keep_checkpoints"
        )
