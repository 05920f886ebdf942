"""Checks of profiles: ranges, what may reach sbatch, and what a stage asks for."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from qa_dist.profile import (
    CHOICES,
    LIMITS,
    STAGES,
    Profile,
    Resources,
    check_profile,
    resources_of,
)

SLURM = Profile(name="slurm", where="slurm", gpus_per_node=0)


def fault_of(profile: Profile) -> str:
    (fault,) = check_profile(profile)
    return fault


def test_defaults_are_good() -> None:
    assert check_profile(Profile(name="local")) == []
    assert check_profile(SLURM) == []


def test_every_number_has_limits_and_every_table_key_a_field() -> None:
    parts = {"profile": Profile(), **{s: Resources() for s in STAGES if s != "train"}}
    numbers = {
        f"{section}.{item.name}"
        for section, part in parts.items()
        for item in fields(part)  # type: ignore[arg-type]
        if str(item.type) in ("int", "float")
    }
    assert set(LIMITS) == numbers
    assert set(CHOICES) <= {f"profile.{item.name}" for item in fields(Profile)}


def test_all_faults_at_once() -> None:
    faults = check_profile(Profile(name="x", where="moon", gpus_per_node=-2, timeout_min=0))
    assert [fault.partition("=")[0] for fault in faults] == [
        "where",
        "gpus_per_node",
        "timeout_min",
    ]
    assert "use where=local" in fault_of(Profile(name="x", where="process", ranks_per_node=2))


@pytest.mark.parametrize("name", ["partition", "account", "qos", "constraint"])
@pytest.mark.parametrize(
    "text", ["a b", "a'b", 'a"b', "a\\b", "a%j", "$(touch x)", "a;b", "-x", "`x`", "a#b", "ü"]
)
def test_hostile_texts_never_reach_sbatch(name: str, text: str) -> None:
    assert fault_of(replace(SLURM, **{name: text})).startswith(f"{name}=")
    section = replace(SLURM, evaluate=Resources(**{name: text}))  # type: ignore[arg-type]
    assert fault_of(section).startswith(f"evaluate.{name}=")


@pytest.mark.parametrize("text", ["gpu", "a100&nvlink", "(rack1|rack2)*2", "gpu:a100", "a,b"])
def test_what_clusters_use_is_let_in(text: str) -> None:
    assert check_profile(replace(SLURM, constraint=text)) == []


@pytest.mark.parametrize(
    ("name", "text"), [("A B", "x"), ("1A", "x"), ("A", "$HOME"), ("A", "a'b"), ("A", "a\\b")]
)
def test_environment_is_plain(name: str, text: str) -> None:
    assert fault_of(replace(SLURM, environment={name: text})).startswith("environment.")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"gpus_per_node": -1}, "can't be seen from here"),
        ({"gpus_per_node": 4, "ranks_per_node": 2}, "each rank takes one GPU"),
        ({"timeout_min": 5}, "signal_lead_s=300: expected less than timeout_min=5"),
    ],
)
def test_slurm_relations(changes: dict[str, Any], wanted: str) -> None:
    assert wanted in fault_of(replace(SLURM, **changes))


def test_a_stage_asks_for_what_its_section_says_else_for_the_profiles() -> None:
    profile = replace(
        SLURM,
        partition="gpu",
        gpus_per_node=8,
        mem_gb=500,
        cpus_per_task=12,
        prepare=Resources(partition="cpu", mem_gb=16),
    )
    prepare = resources_of(profile, "prepare")
    assert (prepare.partition, prepare.mem_gb, prepare.gpus_per_node) == ("cpu", 16, 0)
    assert prepare.cpus_per_task == 12 and prepare.timeout_min == profile.timeout_min
    assert resources_of(profile, "train").gpus_per_node == 8
    assert resources_of(profile, "evaluate").gpus_per_node == 1
    assert resources_of(profile, "evaluate").partition == "gpu"
    assert resources_of(replace(profile, gpus_per_node=0), "evaluate").gpus_per_node == 0
