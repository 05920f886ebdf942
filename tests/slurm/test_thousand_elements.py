"""A run of 1,000 array elements: 60 are real processes, some of them killed at random; the rest are
stood in for by their markers and heartbeats."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from slurm_clusters import Cluster
from small_cases import SmallCase, write_squad

from qa_dist.cluster.launch import LAUNCH_KEYS, PROFILE_KEYS, RECIPES, ROOT
from qa_dist.cluster.open_run import open_root, open_run
from qa_dist.data.prepared import Prepared
from qa_dist.files import write_json
from qa_dist.plan import locate_inputs, make_plan, save_plan
from qa_dist.prepare import prepare_element
from qa_dist.recipe_loading import load_recipe, split_arguments
from qa_dist.run_dir import shard_name

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SEED = 7
NUM_SHARDS = 999  # of train; dev has one
NUM_REAL, NUM_KILLED, MOST_IN_AN_ARRAY = 60, 12, 8


@pytest.fixture
def case(cluster: Cluster, launch_words: list[str], tmp_path: Path) -> SmallCase:
    train = write_squad(tmp_path / "train.json", [1] * NUM_SHARDS)
    dev = write_squad(tmp_path / "dev.json", [1])
    source = ("sources.0.task=squad", f"sources.0.train={train}", f"sources.0.dev={dev}")
    settings = (f"data.num_shards={NUM_SHARDS}", "sources.0.max_train_examples=0")
    return SmallCase(cluster, launch_words, tmp_path, *source, *settings)


def open_with_dev_alone(case: SmallCase) -> Prepared:
    """Open the run as a launch would, and make the one shard of dev in this process."""
    keys, overrides = split_arguments(case.words, [*LAUNCH_KEYS, *PROFILE_KEYS])
    recipe = locate_inputs(load_recipe(keys["recipe"], overrides, RECIPES), ROOT)
    plan = make_plan(recipe, Path(keys["prepared_dir"]))
    run = open_root(Path(keys["runs_dir"]), keys["name"], recipe.name)
    prepared = open_run(run, recipe, plan, plan.prepared(NUM_SHARDS, 1), is_fresh=False)
    save_plan(plan)
    assert prepared.num_shards == {"train": NUM_SHARDS, "dev": 1}
    prepare_element(run, prepared.elements().index(("dev", 0)))
    return prepared


def stand_in(case: SmallCase, prepared: Prepared, real: set[int]) -> dict[str, int]:
    """Copy one shard to where all others but the real ones are to be, each with a heartbeat; return
    when each marker was written."""
    made = prepared.folder / shard_name("dev", 0, 1)
    written = {}
    for element in set(range(NUM_SHARDS)) - real:
        folder = prepared.folder / shard_name("train", element, NUM_SHARDS)
        shutil.copytree(made, folder)
        written[folder.name] = (folder / "MANIFEST.json").stat().st_mtime_ns
        facts = {"state": "done", "step": 1, "of": 1, "unit": "records", "updated_at": time.time()}
        write_json(case.run.status_file("prepare", element), facts)
    return written


def kill_when_they_run(case: SmallCase, victims: set[int]) -> None:
    """Kill the process of each of these elements while it works."""
    left = set(victims)
    give_up_at = time.monotonic() + 300
    while left and time.monotonic() < give_up_at:
        for element in list(left):
            facts = case.element(element)
            if facts.get("state") == "running" and "pid" in facts:
                with suppress(ProcessLookupError):
                    os.kill(facts["pid"], signal.SIGKILL)
                    left.discard(element)
        time.sleep(0.1)
    assert not left, f"never seen running: {left}"


def status_takes(case: SmallCase) -> tuple[float, dict[str, int]]:
    """Return the seconds of `jobs/status.py RUN` (the best of three), and its counts."""
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        shown = case.job("status", "--json")
        seconds.append(time.monotonic() - started)
    prepare = next(s for s in json.loads(shown.stdout)["stages"] if s["stage"] == "prepare")
    return min(seconds), {state: count for state, count in prepare["elements"].items() if count}


def test_nothing_is_lost_status_is_quick_and_only_what_is_missing_runs_again(
    case: SmallCase,
) -> None:
    draw = random.Random(SEED)
    real = set(draw.sample(range(NUM_SHARDS), NUM_REAL))
    victims = set(draw.sample(sorted(real), NUM_KILLED))
    print(f"seed {SEED}: killed are {sorted(victims)}")
    prepared = open_with_dev_alone(case)
    written = stand_in(case, prepared, real)

    slow = "point=prepare.batch;step=1;action=sleep:4"
    ids = case.submits("stages=prepare", "max_parallel=8", fault=slow)
    assert set(ids) == {"prepare"}
    arrays = [one["elements"] for one in case.submitted()]
    assert sorted(element for one in arrays for element in one) == sorted(real)
    assert [len(one) for one in arrays] == [8, 8, 8, 8, 8, 8, 8, 4], "split at MaxArraySize"
    kill_when_they_run(case, victims)
    during, _ = status_takes(case)
    case.wait_for("done", *(real - victims))
    case.cluster.wait_for(
        lambda: not case.cluster.run("squeue", "--noheader").stdout, "an empty queue", 120
    )
    after, counts = status_takes(case)
    print(f"status of 1,000 elements: {during:.2f} s while they run, {after:.2f} s afterwards")
    assert counts == {"done": 1000 - NUM_KILLED, "failed": NUM_KILLED}
    assert max(during, after) <= 1.0

    again = case.job("retry")
    assert again.returncode == 0, again.stderr
    arrays = [one["elements"] for one in case.submitted()[8:]]
    assert [len(one) for one in arrays] == [8, 4]
    assert sorted(element for one in arrays for element in one) == sorted(victims)
    case.wait_for("done", *victims)
    assert status_takes(case)[1] == {"done": 1000}
    assert not any(prepared.missing(split) for split in ("train", "dev"))
    for name, when in written.items():
        assert (prepared.folder / name / "MANIFEST.json").stat().st_mtime_ns == when, name
    ran = {path.name.split("-")[1] for path in case.run.logs.glob("prepare-*.out")}
    assert ran == {str(element) for element in real}
