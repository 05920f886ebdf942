"""What the doctor says of what its probe found on nodes: ok, warning or problem, and what to do.

In: the ranks' reports (probe.py). Out: findings. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qa_dist.profile import Profile

OK, WARNING, PROBLEM = "ok", "warning", "problem"
Reports = Mapping[int, Mapping[str, Any]]
"""By rank; rank 0 first."""
_SLOW_RENAME_S = 5.0
_SLOW_MB_PER_S = 100.0
_MIN_RUNS_GB, _MIN_TEMP_GB = 10.0, 1.0
_EARLY_S, _INEXACT_S = 90.0, 3.0
"""Slurm looks at time limits once in 30 s or so, and warns earlier rather than later."""


@dataclass(frozen=True)
class Finding:
    """One line of what the doctor says."""

    check: str
    level: str
    """OK, WARNING or PROBLEM."""
    text: str
    advice: str = ""
    """What to do; empty: nothing."""


def judge(part: str, reports: Reports, profile: Profile) -> Iterator[Finding]:
    """Yield what is to be said of one part of all ranks' reports."""
    check = CHECK_OF_PART[part]
    errors = {one["host"]: one[part]["error"] for one in reports.values() if "error" in one[part]}
    if errors:
        host, text = next(iter(errors.items()))
        yield Finding(check, PROBLEM, f"{host}: {text}", _ADVICE.get(check, ""))
        return
    yield from _JUDGES[part](reports, profile)


def _judge_facts(reports: Reports, profile: Profile) -> Iterator[Finding]:
    facts = {str(one["host"]): one["facts"] for one in reports.values()}
    yield _judge_gpus(facts, max(0, profile.gpus_per_node))
    yield _judge_versions(facts)
    yield _judge_caches(facts)
    yield _judge_disk(facts)


def _judge_gpus(facts: Mapping[str, Any], asked: int) -> Finding:
    wrong = {host: one["gpus"] for host, one in facts.items() if one["gpus"] != asked}
    if not wrong:
        text = f"{asked} on each node" if asked else "none asked for (gpus_per_node=0)"
        return Finding("gpus", OK, f"{text}; {_each(facts, 'cores')} cores for a process")
    seen = ", ".join(f"{host} {count}" for host, count in wrong.items())
    return Finding(
        "gpus",
        PROBLEM,
        f"torch sees {seen}, and gpus_per_node={asked}",
        "set gpus_per_node to what the partition's nodes have; if it is right, ask why jobs don't "
        "get them (gres), or install a torch that fits the driver",
    )


def _each(facts: Mapping[str, Any], name: str) -> str:
    return " / ".join(dict.fromkeys(str(one[name]) for one in facts.values()))


def _judge_versions(facts: Mapping[str, Any]) -> Finding:
    """Compare all nodes, and this machine where it says something too."""
    versions = {host: one["versions"] for host, one in facts.items()}
    names = list(dict.fromkeys(name for one in versions.values() for name in one))
    unlike = []
    for name in names:
        there = {host: str(one[name]) for host, one in versions.items() if name in one}
        if len(set(there.values())) > 1:
            unlike.append(f"{name} " + ", ".join(f"{host} {v}" for host, v in there.items()))
    if unlike:
        advice = "start all from one environment in a folder that all nodes see, or reinstall"
        return Finding("versions", PROBLEM, "; ".join(unlike), advice)
    first = {name: version for one in versions.values() for name, version in one.items()}
    missing = [name for name, version in first.items() if version == "missing"]
    if missing:
        advice = "install them for this Python: pip install -c constraints.txt -e ."
        return Finding("versions", PROBLEM, f"{', '.join(missing)} missing", advice)
    shown = ", ".join(f"{name} {version}" for name, version in first.items())
    return Finding("versions", OK, f"equal: {shown}")


def _judge_caches(facts: Mapping[str, Any]) -> Finding:
    errors = {host: one["model_error"] for host, one in facts.items() if one.get("model_error")}
    if errors:
        host, text = next(iter(errors.items()))
        advice = (
            "fetch it once on this machine, into a cache that nodes see (HF_HOME in the profile's "
            "environment)"
        )
        return Finding("caches", PROBLEM, f"{host}: {text}", advice)
    if not all(one.get("offline", True) for one in facts.values()):
        advice = "don't unset HF_HUB_OFFLINE in env_file"
        return Finding("caches", WARNING, "nodes would ask the hub", advice)
    model = next((one["model"] for one in facts.values() if one.get("model")), "")
    seen = f"nodes see {model}" if model else "no encoder was looked for, as recipe= wasn't given"
    return Finding("caches", OK, f"nodes are offline (HF_HUB_OFFLINE=1); {seen}")


def _judge_disk(facts: Mapping[str, Any]) -> Finding:
    nodes = {host: one for host, one in facts.items() if "temp" in one}
    runs_gb = min(one["runs_free_gb"] for one in nodes.values())
    temp_gb, temp = min((one["temp_free_gb"], one["temp"]) for one in nodes.values())
    text = f"{runs_gb:,.0f} GB free for runs, {temp_gb:,.0f} GB in the nodes' own {temp}"
    if runs_gb < _MIN_RUNS_GB:
        return Finding("disk", WARNING, text, "make room, or choose another place by runs_dir=")
    if temp_gb < _MIN_TEMP_GB:
        return Finding("disk", WARNING, text, "set TMPDIR in the profile's environment")
    return Finding("disk", OK, text)


def _judge_signal(reports: Reports, profile: Profile) -> Iterator[Finding]:
    deaf = [str(one["host"]) for one in reports.values() if not one["signal"]["came"]]
    if deaf:
        text = f"USR2 by scancel didn't reach {', '.join(deaf)}"
        advice = "a stop wouldn't be saved; look for a wrapper in env_file that keeps signals"
        yield Finding("signal", PROBLEM, text, advice)
    else:
        yield Finding("signal", OK, "USR2 by scancel reached each process")


def _judge_folder(reports: Reports, profile: Profile) -> Iterator[Finding]:
    if len(reports) == 1:
        yield Finding("folder", OK, "the node sees the folder of runs; not tried between nodes")
        return
    offered, followed = (reports[rank]["folder"] for rank in (0, 1))
    seen_s, held, after = offered["seen_s"], followed["lock_while_held"], followed["lock_after"]
    text = f"a renamed file is seen by another node within {seen_s:.2f} s"
    if seen_s > _SLOW_RENAME_S:
        yield Finding("folder", WARNING, text, "mount it with shorter attribute caches (actimeo)")
        return
    answers = (offered["lock"], held, after)
    if answers == ("got", "kept out", "got"):
        yield Finding("folder", OK, f"{text}; locks hold between nodes")
    elif set(answers) <= {"got", "kept out"}:
        yield Finding(
            "folder",
            WARNING,
            f"{text}, but a lock doesn't keep other nodes out",
            "launch a run always from the same machine, or use NFS 4, or Lustre with -o flock",
        )
    else:
        why = next(one for one in answers if one not in ("got", "kept out"))
        advice = "keep runs on a file system with locks (NFS 4, Lustre mounted with -o flock)"
        yield Finding("folder", PROBLEM, f"files can't be locked ({why})", advice)


def _judge_network(reports: Reports, profile: Profile) -> Iterator[Finding]:
    found = reports[0]["network"]
    if found["gloo_mb_per_s"] is None:
        yield Finding("network", OK, f"a rank of one node meets itself at {found['address']}")
        return
    at = ", ".join(str(one["network"]["address"]) for one in reports.values())
    kinds = [name for name in ("gloo", "nccl") if found.get(f"{name}_mb_per_s")]
    speeds = {name: float(found[f"{name}_mb_per_s"]) for name in kinds}
    shown = ", ".join(f"{name} {speed:,.0f} MB/s" for name, speed in speeds.items())
    text = f"ranks of two nodes meet ({at}): {shown}"
    if speeds[kinds[-1]] < _SLOW_MB_PER_S:
        yield Finding("network", WARNING, text, "choose a faster network by master_interface")
    else:
        yield Finding("network", OK, text)


def _judge_time_limit(reports: Reports, profile: Profile) -> Iterator[Finding]:
    leads = [one["time_limit"]["lead_s"] for one in reports.values()]
    asked = profile.signal_lead_s
    deaf = [one["host"] for one in reports.values() if one["time_limit"]["lead_s"] is None]
    if deaf:
        text = f"no USR2 reached {', '.join(deaf)} before the time limit (signal_lead_s={asked})"
        advice = "what is trained since the last checkpoint would be lost; ask the administrators"
        yield Finding("time_limit", PROBLEM, text, advice)
        return
    lead = min(leads)
    text = f"USR2 came {lead:.0f} s before the time limit (signal_lead_s={asked})"
    if lead < asked - _INEXACT_S:
        advice = f"raise signal_lead_s by {asked - lead:.0f}, or saving may take too long"
        yield Finding("time_limit", PROBLEM, text, advice)
    elif lead > asked + _EARLY_S:
        yield Finding("time_limit", WARNING, text, "earlier than asked for: time is lost")
    else:
        yield Finding("time_limit", OK, text)


CHECK_OF_PART = {
    "facts": "gpus",
    "signal": "signal",
    "folder": "folder",
    "network": "network",
    "time_limit": "time_limit",
    "requeue": "requeue",
}
"""The check that a part's failure is told as."""
_JUDGES: dict[str, Callable[[Reports, Profile], Iterator[Finding]]] = {
    "facts": _judge_facts,
    "signal": _judge_signal,
    "folder": _judge_folder,
    "network": _judge_network,
    "time_limit": _judge_time_limit,
}
_ADVICE = {
    "folder": "keep runs in a folder that all nodes share: give another one by runs_dir=",
    "network": "choose the network that nodes share by master_interface in the profile",
    "requeue": "preempted runs won't go on by themselves: ask for scontrol on the nodes, and for "
    "jobs that may be requeued; until then launch again",
}
