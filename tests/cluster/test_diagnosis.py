"""What is said of what nodes report: each thing that may be wrong is named, with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from qa_dist.cluster.diagnosis import CHECK_OF_PART, OK, PROBLEM, WARNING, Finding, judge
from qa_dist.profile import Profile

PROFILE = Profile(name="here", where="slurm", gpus_per_node=2, signal_lead_s=60)
VERSIONS = {"python": "3.11.2", "torch": "2.13.0", "driver": "570.1"}
FACTS = {
    "versions": VERSIONS,
    "gpus": 2,
    "cores": 8,
    "offline": True,
    "model": "",
    "model_error": "",
    "runs_free_gb": 900.0,
    "temp": "/tmp",
    "temp_free_gb": 50.0,
}
FINE: dict[str, list[dict[str, Any]]] = {
    "facts": [FACTS, FACTS],
    "signal": [{"came": True}, {"came": True}],
    "folder": [
        {"seen_s": 0.04, "lock": "got"},
        {"lock_while_held": "kept out", "lock_after": "got"},
    ],
    "network": [
        {"address": "10.0.0.1", "gloo_mb_per_s": 900.0, "nccl_mb_per_s": 20_000.0},
        {"address": "10.0.0.2", "gloo_mb_per_s": 900.0, "nccl_mb_per_s": 20_000.0},
    ],
    "time_limit": [{"lead_s": 81.0}, {"lead_s": 80.0}],
}


def findings(part: str, *changes: dict[str, Any]) -> list[Finding]:
    """What is said of the fine reports with changes, one dict for each rank."""
    ranks = [dict(facts) for facts in FINE[part]]
    for facts, change in zip(ranks, changes, strict=False):
        facts |= change
    reports = {rank: {"host": f"n{rank + 1}", part: facts} for rank, facts in enumerate(ranks)}
    return [*judge(part, reports, PROFILE)]


def finding(check: str, part: str, *changes: dict[str, Any]) -> Finding:
    (found,) = [one for one in findings(part, *changes) if one.check == check]
    return found


@pytest.mark.parametrize("part", FINE)
def test_what_is_fine_is_said_to_be_and_asks_for_nothing(part: str) -> None:
    found = findings(part)
    assert found and {one.level for one in found} == {OK}
    assert not any(one.advice for one in found)


@pytest.mark.parametrize(
    ("check", "part", "changes", "level", "text"),
    [
        ("gpus", "facts", [{}, {"gpus": 1}], PROBLEM, "torch sees n2 1, and gpus_per_node=2"),
        (
            "versions",
            "facts",
            [{}, {"versions": {**VERSIONS, "torch": "2.9"}}],
            PROBLEM,
            "torch n1 2.13.0, n2 2.9",
        ),
        (
            "versions",
            "facts",
            [{"versions": {"torch": "missing"}}] * 2,
            PROBLEM,
            "torch missing",
        ),
        ("caches", "facts", [{}, {"model_error": "no config.json"}], PROBLEM, "n2: no config"),
        ("caches", "facts", [{"offline": False}], WARNING, "would ask the hub"),
        ("disk", "facts", [{"runs_free_gb": 2.0}], WARNING, "2 GB free for runs"),
        ("disk", "facts", [{"temp_free_gb": 0.2}], WARNING, "0 GB in the nodes' own /tmp"),
        ("signal", "signal", [{}, {"came": False}], PROBLEM, "didn't reach n2"),
        ("folder", "folder", [{"seen_s": 9.0}], WARNING, "within 9.00 s"),
        ("folder", "folder", [{}, {"lock_while_held": "got"}], WARNING, "doesn't keep other"),
        (
            "folder",
            "folder",
            [{"lock": "Function not implemented"}],
            PROBLEM,
            "can't be locked (Function not implemented)",
        ),
        ("network", "network", [{"nccl_mb_per_s": 50.0}], WARNING, "nccl 50 MB/s"),
        (
            "network",
            "network",
            [{"error": "rank 0 has no ib7"}],
            PROBLEM,
            "n1: rank 0 has no ib7",
        ),
        ("time_limit", "time_limit", [{"lead_s": 31.0}], PROBLEM, "31 s before the time limit"),
        ("time_limit", "time_limit", [{}, {"lead_s": None}], PROBLEM, "no USR2 reached n2"),
        ("time_limit", "time_limit", [{"lead_s": 300.0}] * 2, WARNING, "300 s before"),
    ],
)
def test_each_fault_is_named_with_what_to_do(
    check: str, part: str, changes: list[dict[str, Any]], level: str, text: str
) -> None:
    found = finding(check, part, *changes)
    assert found.level == level and text in found.text, found
    assert found.advice


def test_without_gpus_that_is_said() -> None:
    reports = {0: {"host": "n1", "facts": {**FACTS, "gpus": 0}}}
    first = next(judge("facts", reports, Profile(gpus_per_node=0)))
    assert first.level == OK and "gpus_per_node=0" in first.text


def test_an_encoder_is_named_if_it_was_looked_for() -> None:
    assert "recipe= wasn't given" in finding("caches", "facts").text
    found = finding("caches", "facts", {"model": "roberta-base"})
    assert found.level == OK and "nodes see roberta-base" in found.text


def test_one_node_alone_is_told_as_such() -> None:
    folder = next(judge("folder", {0: {"host": "n1", "folder": {}}}, PROFILE))
    assert folder.level == OK and "not tried between nodes" in folder.text
    alone = {"address": "10.0.0.1", "gloo_mb_per_s": None}
    network = next(judge("network", {0: {"host": "n1", "network": alone}}, PROFILE))
    assert network.level == OK and "one node" in network.text


def test_the_clusters_own_words_are_passed_on() -> None:
    reports = {0: {"host": "n1", "requeue": {"error": "scontrol requeue: access denied"}}}
    (found,) = judge("requeue", reports, PROFILE)
    assert found.level == PROBLEM and "access denied" in found.text and "scontrol" in found.advice
    assert "requeue" in CHECK_OF_PART
