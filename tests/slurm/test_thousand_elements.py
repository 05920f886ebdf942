"""A run of 1,000 elements, of which 60 are processes of a real cluster and half of those are
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
from qa_dist.files import verify_folder
from qa_dist.plan import make_plan
from qa_dist.recipe_loading import load_recipe, split_arguments

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

NUM, NUM_REAL, NUM_KILLED = 1000, 60, 30
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


def kill_some(case: SmallCase, victims: list[int], dice: random.Random) -> list[int]:
    """Kill each of these soon after it began, at a random moment; return those that it ended."""
    due: dict[int, float] = {}
    killed: list[int] = []
    give_up_at = time.monotonic() + 300
    while len(due) < len(victims) or any(at != float("inf") for at in due.values()):
        assert time.monotonic() < give_up_at, f"never ran: {sorted(set(victims) - due.keys())}"
        for element in victims:
            facts = case.element(element)
            if element not in due and facts.get("state") in ("running", "done"):
                due[element] = time.monotonic() + dice.uniform(0, 2)
            if time.monotonic() >= due.get(element, float("inf")):
                due[element] = float("inf")
                try:
                    os.kill(int(facts["pid"]), signal.SIGKILL)
                    killed.append(element)
                except ProcessLookupError:
                    pass  # it was done before
        time.sleep(0.1)
    return sorted(killed)


def test_a_thousand_elements_of_which_some_are_killed(
    cluster: Cluster, launch_words: list[str], tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    train = write_squad(tmp_path / "train.json", [1] * (NUM - 1))
    dev = write_squad(tmp_path / "dev.json", [1])
    source = ("sources.0.task=squad", f"sources.0.train={train}", f"sources.0.dev={dev}")
    changes = (f"data.num_shards={NUM - 1}", "max_parallel=1", "sources.0.max_train_examples=0")
    case = SmallCase(cluster, launch_words, tmp_path, *source, *changes)
    prepared = plan_data(case)
    assert len(prepared.elements()) == NUM

    real = sorted(dice.sample(range(NUM), NUM_REAL))
    case.run.root.mkdir(parents=True, mode=0o700)
    stand_in(case, prepared, [element for element in range(NUM) if element not in real])
    fault = "point=prepare.batch;attempt=1;action=sleep:3"
    case.submits("stages=prepare", fault=fault)
    submitted = case.submitted()
    assert [element for one in submitted for element in one["elements"]] == real
    assert {len(one["elements"]) for one in submitted} <= {ARRAY_SIZE, NUM_REAL % ARRAY_SIZE}

    killed = kill_some(case, sorted(dice.sample(real, NUM_KILLED)), dice)
    assert len(killed) > NUM_KILLED // 2, "the faults fired"
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
    case.wait_for("done", *killed)
    for element in real:
        verify_folder([p for s in prepared.num_shards for p in prepared.shards(s)][element])
        assert case.attempts("prepare", element) == (["1", "2"] if element in killed else ["1"])
    assert case.stages()["prepare"]["elements"]["done"] == NUM
