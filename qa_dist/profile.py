"""Every setting of a place where jobs run: one YAML each in slurm/profiles.

Loaded and checked like a recipe. What reaches sbatch is let in by an allow-list, since quoting for
a shell isn't quoting for sbatch's own parser. Nothing here asks a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from qa_dist.recipe_checks import Limits, check_fields, show_value

WHERE = ("process", "local", "slurm")
STAGES = ("prepare", "train", "evaluate", "aggregate")
_SBATCH_TEXT = re.compile(r"[A-Za-z0-9(\[][A-Za-z0-9_.,:&|()*+@=/\[\]-]{0,199}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_VARIABLE_TEXT = re.compile(r"[A-Za-z0-9_.,:@%+=/~ -]{0,1000}")
_MIN_LEAD_S = 30


@dataclass(frozen=True)
class Resources:
    """What one stage asks of the cluster where it differs from the profile's own fields."""

    partition: str = ""
    """Partition; empty: the profile's."""
    account: str = ""
    """Account; empty: the profile's."""
    qos: str = ""
    """Quality of service; empty: the profile's."""
    constraint: str = ""
    """Features that nodes must have; empty: the profile's."""
    gpus_per_node: int = -1
    """GPUs of one element; -1: none to prepare and aggregate; to evaluate one if training has
    any."""
    cpus_per_task: int = 0
    """Cores of each process; 0: the profile's."""
    mem_gb: float = 0.0
    """Memory of each node, in GB; 0: the profile's."""
    timeout_min: int = 0
    """Time limit, in minutes; 0: the profile's."""


@dataclass(frozen=True)
class Profile:
    """Where jobs run."""

    name: str = ""
    """The YAML file's name."""
    where: str = "local"
    """"process": this very process; "local": processes of this machine; "slurm": cluster jobs."""
    nodes: int = 1
    """Machines to train on."""
    gpus_per_node: int = -1
    """GPUs to use on each node; -1: all that this machine has (on SLURM: say how many)."""
    ranks_per_node: int = 0
    """Training processes on each node; 0: one per GPU, or one where there is none."""
    max_parallel: int = 0
    """Array elements that run at once; 0: one per core (per GPU, where a stage uses one); on SLURM
    as many as it lets."""
    timeout_min: int = 10_000
    """Longest time for one job, in minutes; a training job that isn't done by then goes on in
    another."""
    partition: str = ""
    """SLURM partition; empty: the cluster's default."""
    account: str = ""
    """SLURM account; empty: the user's default."""
    qos: str = ""
    """SLURM quality of service; empty: the default."""
    constraint: str = ""
    """Features that SLURM nodes must have, e.g. "a100&nvlink"."""
    cpus_per_task: int = 0
    """Cores of each process; 0: the cluster's default."""
    mem_gb: float = 0.0
    """Memory of each node, in GB; 0: the cluster's default."""
    signal_lead_s: int = 300
    """How long before the time limit a job is told to save, in seconds; a peer that doesn't answer
    is given up earlier than that."""
    max_timeouts: int = 20
    """How often a job may run into its time limit and be queued again."""
    master_interface: str = ""
    """Network interface over which ranks meet, e.g. "ib0"; empty: that of the default route."""
    env_file: str = ""
    """A shell file that each job reads first (module load ...); empty: slurm/env.sh."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for each job, e.g. {"HF_HOME": "/scratch/hf"}."""
    prepare: Resources = field(default_factory=Resources)
    evaluate: Resources = field(default_factory=Resources)
    aggregate: Resources = field(default_factory=Resources)
    recipe_defaults: dict[str, str] = field(default_factory=dict)
    """Recipe settings that the command line may still change, e.g. {"train.max_steps": "2"}."""


_RESOURCE_LIMITS = {
    "gpus_per_node": Limits(-1, 64, "a number of GPUs (-1: all)"),
    "cpus_per_task": Limits(0, 4096, "a number of cores"),
    "mem_gb": Limits(0, 100_000, "a size in GB"),
    "timeout_min": Limits(0, 527_040, "a number of minutes"),
}
LIMITS = {
    **{
        f"{section}.{name}": limits
        for section in ("profile", "prepare", "evaluate", "aggregate")
        for name, limits in _RESOURCE_LIMITS.items()
    },
    "profile.timeout_min": Limits(1, 527_040, "a number of minutes"),
    "profile.nodes": Limits(1, 100_000, "a number of machines"),
    "profile.ranks_per_node": Limits(0, 1024, "a number of processes"),
    "profile.max_parallel": Limits(0, 100_000, "a number of array elements"),
    "profile.signal_lead_s": Limits(_MIN_LEAD_S, 86_400, "a number of seconds"),
    "profile.max_timeouts": Limits(0, 100_000, "a number of times"),
}
CHOICES = {"profile.where": WHERE}
_TO_SBATCH = ("partition", "account", "qos", "constraint")


def resources_of(profile: Profile, stage: str) -> Resources:
    """Return what a stage asks for: its own section, completed by the profile's fields."""
    own = {
        item.name: getattr(profile, item.name)
        for item in fields(Resources)
        if item.name != "gpus_per_node"
    }
    if stage == "train":
        return Resources(**own, gpus_per_node=max(0, profile.gpus_per_node))
    section: Resources = getattr(profile, stage)
    own = {name: getattr(section, name) or value for name, value in own.items()}
    gpus = section.gpus_per_node
    if gpus < 0:
        gpus = min(1, max(0, profile.gpus_per_node)) if stage == "evaluate" else 0
    return Resources(**own, gpus_per_node=gpus)


def check_profile(profile: Profile) -> list[str]:
    """Return a sentence for each thing wrong with `profile`, `recipe_defaults` left out."""
    faults = [*check_fields("", "profile", profile, LIMITS, CHOICES)]
    for section in ("prepare", "evaluate", "aggregate"):
        part = getattr(profile, section)
        faults += check_fields(f"{section}.", section, part, LIMITS, CHOICES)
        faults += _check_sbatch_texts(f"{section}.", part)
    faults += [*_check_sbatch_texts("", profile), *_check_environment(profile)]
    if profile.where == "process" and profile.ranks_per_node > 1:
        given = f"ranks_per_node={profile.ranks_per_node}"
        faults.append(f"{given}: expected 0 or 1 with where=process; use where=local for more")
    if profile.where == "slurm":
        faults += _check_slurm(profile)
    return faults


def _check_sbatch_texts(prefix: str, part: Profile | Resources) -> Iterator[str]:
    names = _TO_SBATCH + (("master_interface",) if isinstance(part, Profile) else ())
    for name in names:
        value = getattr(part, name)
        if value and not _SBATCH_TEXT.fullmatch(value):
            yield (
                f"{prefix}{name}={show_value(value)}: expected letters, digits and "
                "_.,:&|()*+@=/[]- only, as it goes to sbatch"
            )


def _check_environment(profile: Profile) -> Iterator[str]:
    for name, value in profile.environment.items():
        if not _VARIABLE.fullmatch(name) or not _VARIABLE_TEXT.fullmatch(value):
            yield (
                f"environment.{show_value(name)}={show_value(value)}: expected a variable's name "
                "and a plain text without quotes, $ or backslashes; put more into env_file"
            )


def _check_slurm(profile: Profile) -> Iterator[str]:
    if profile.gpus_per_node < 0:
        yield (
            "gpus_per_node=-1: expected the number that each node of the partition has, as it "
            "can't be seen from here; 0 trains on the CPU"
        )
    if profile.gpus_per_node > 0 and profile.ranks_per_node not in (0, profile.gpus_per_node):
        yield (
            f"ranks_per_node={profile.ranks_per_node}: expected 0 or gpus_per_node="
            f"{profile.gpus_per_node}, as each rank takes one GPU"
        )
    if profile.timeout_min * 60 <= profile.signal_lead_s:
        yield (
            f"signal_lead_s={profile.signal_lead_s}: expected less than timeout_min="
            f"{profile.timeout_min}, or nothing would be trained; lower it"
        )
