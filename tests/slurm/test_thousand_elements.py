"""A run of 1,000 elements, of which 60 are processes of a real cluster and most of those are
killed: nothing is lost, status stays quick, and retry submits exactly what is missing.

The other 940 are stood in for by what they would have left: a marker and a heartbeat.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fabricated import FakeRun
from slurm_clusters import Cluster
from small_cases import SmallCase, write_squad

from qa_dist.data.prepared import Prepared
from qa_dist.faults import read_log
from qa_dist.files import verify_folder
from qa_dist.plan import make_plan
from qa_dist.recipe_loading import load_recipe, split_arguments

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

NUM, NUM_REAL, SHARE = 1000, 60, 0.75
"""SHARE: of the real ones, how many are killed."""
ARRAY_SIZE = 8
"""The cluster's MaxArraySize."""


def plan_data(case: SmallCase) -> Prepared:
    """Return the data that a launch of this case will prepare."""
    keys, overrides = split_arguments(
        case.words, ["recipe", "profile", "name", "runs_dir", "prepared_dir", *OF_PROFILE]
    )
    recipe = load_recipe(keys["recipe"], overrides, Path("configs/recipes").absolute())
    return make_plan(recipe, Path(keys["prepared_dir"])).prepared(recipe.data.num_shards, 1)


OF_PROFILE = ("nodes", "ranks_per_node", "max_parallel")


def stand_in(case: SmallCase, prepared: Prepared, elements: list[int]) -> None:
    """Leave what elements leave that are done: a marked shard and a heartbeat."""
    fake, shards = FakeRun(case.run), [p for s in prepared.num_shards for p in prepared.shards(s)]
    for element in elements:
        shards[element].mkdir(parents=True)
        (shards[element] / "MANIFEST.json").write_text('{"files": {}}')
        fake.beat("prepare", element, "done", step=1, of=1, unit="records", attempt=1)


def timed(ask: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds, by the clock and of the processor, that a subprocess took."""
    before, began_at = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ask()
    seconds = time.monotonic() - began_at
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def element_of(case: SmallCase, pid: int) -> int:
    """Return the element that a process of a job works on; -1: it is gone."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode()
    except OSError:
        return -1
    facts = dict(line.partition("=")[::2] for line in text.split("\0"))
    if not facts:
        return -1
    (one,) = (o for o in case.submitted() if str(o["job"]) == facts["SLURM_ARRAY_JOB_ID"])
    return int(one["elements"][int(facts["SLURM_ARRAY_TASK_ID"])])


def kill_some(case: SmallCase, num_real: int, dice: random.Random) -> list[int]:
    """Wait until all processes have begun; kill most of them at a random moment soon after that.
    Return the elements that were killed."""
    due: dict[int, float] = {}
    killed: list[int] = []
    give_up_at = time.monotonic() + 400
    while len(due) < num_real or any(at < float("inf") for at in due.values()):
        assert time.monotonic() < give_up_at, f"{len(due)} began\n{case.cluster.situation()}"
        now = time.monotonic()
        for fired in read_log(case.log):
            pid = fired["pid"]
            if pid not in due:
                due[pid] = now + dice.uniform(0, 2) if dice.random() < SHARE else float("inf")
            elif now >= due[pid]:
                due[pid] = float("inf")
                element = element_of(case, pid)
                if element >= 0:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(element)
        time.sleep(0.1)
    return sorted(killed)


def test_a_thousand_elements_of_which_some_are_killed(
    cluster: Cluster, launch_words: list[str], tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)  # plugins seed `random` itself
    print(f"seed {seed}")
    dice = random.Random(seed)
    train = write_squad(tmp_path / "train.json", [1] * (NUM - 1))
    dev = write_squad(tmp_path / "dev.json", [1])
    source = ("sources.0.task=squad", f"sources.0.train={train}", f"sources.0.dev={dev}")
    changes = (f"data.num_shards={NUM - 1}", "max_parallel=2", "sources.0.max_train_examples=0")
    case = SmallCase(cluster, launch_words, tmp_path, *source, *changes)
    prepared = plan_data(case)
    assert len(prepared.elements()) == NUM

    real = sorted(dice.sample(range(NUM), NUM_REAL))
    case.run.root.mkdir(parents=True, mode=0o700)
    stand_in(case, prepared, [element for element in range(NUM) if element not in real])
    fault = "point=job.start;attempt=1;action=sleep:1"
    case.submits("stages=prepare", fault=fault)
    submitted = case.submitted()
    assert [element for one in submitted for element in one["elements"]] == real
    assert {len(one["elements"]) for one in submitted} <= {ARRAY_SIZE, NUM_REAL % ARRAY_SIZE}

    killed = kill_some(case, NUM_REAL, dice)
    print(f"{len(killed)} of {NUM_REAL} killed")
    assert NUM_REAL // 2 < len(killed) < NUM_REAL
    for one in submitted:
        cluster.wait_for(
            lambda job=str(one["job"]): (
                not cluster.run("squeue", "-h", "-j", job, check=False).stdout
            ),
            f"job {one['job']} is over",
            timeout_s=200,
        )
    prepare = case.stages()["prepare"]
    assert prepare["elements"] == {
        "done": NUM - len(killed), "running": 0, "waiting": 0, "failed": len(killed), "missing": 0,
    }  # fmt: skip
    assert sorted(case.notes("prepare")) == killed, "nothing else is lost"
    times = [timed(lambda: case.job("status")) for _ in range(3)]
    print("status:", ", ".join(f"{wall:.2f} s ({cpu:.2f} s CPU)" for wall, cpu in times))
    assert min(times)[0] <= 1.0, times

    retried = case.job("retry")
    assert retried.returncode == 0, retried.stderr
    again = case.submitted()[len(submitted) :]
    assert [element for one in again for element in one["elements"]] == killed
    assert max(len(one["elements"]) for one in again) <= ARRAY_SIZE
    assert case.stages()["prepare"]["elements"]["waiting"] > 0
    for element in set(real) - set(killed):
        verify_folder([p for s in prepared.num_shards for p in prepared.shards(s)][element])
