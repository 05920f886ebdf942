"""Row 20: status of a run with 1,000 array elements.

    python benchmarks/status.py [elements=1000] [runs=5]

Nobody else has this command, so there is no peer. The run is made up, on disk as the real one
leaves it: a prepare array of 999 training shards and one of dev, local, each with its folder and
marker, its heartbeat and its log; a tenth failed, a tenth never began. Seconds of wall clock of
`python jobs/status.py RUN` as a whole process, the median of the runs, after its counts were
compared with what was made. Goal <= 1.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from side_by_side import ROOT, Row, measured, run_script


def rows(elements: int = 1000, runs: int = 5) -> Iterator[Row]:
    """Yield the one row."""
    with tempfile.TemporaryDirectory() as folder:
        run, expected = make_run(Path(folder), elements)
        facts = json.loads(status(run, "--json"))
        counts = next(s["elements"] for s in facts["stages"] if s["stage"] == "prepare")
        if {state: count for state, count in counts.items() if count} != expected:
            raise SystemExit(f"expected {expected}, found {counts}")
        seconds = []
        for _ in range(runs):
            started = time.perf_counter()
            status(run)
            seconds.append(time.perf_counter() - started)
    name = f"status of a run with {elements:,} elements"
    yield measured(name, statistics.median(seconds), "s", "<= 1", runs=runs, libraries=("rich",))


def status(run: Path, *words: str) -> str:
    """Return what the command prints: a process of its own."""
    command = [sys.executable, str(ROOT / "jobs" / "status.py"), str(run), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: elements failed, as they are to
        raise SystemExit(done.stderr)
    return done.stdout


def make_run(folder: Path, elements: int) -> tuple[Path, dict[str, int]]:
    """Write the run; return its folder, and how many elements are in which state."""
    from qa_dist.files import write_json, write_text
    from qa_dist.recipe import Model, Recipe, Source
    from qa_dist.recipe_loading import recipe_to_yaml
    from qa_dist.run_dir import RunDir, shard_name

    run = RunDir(folder / "runs" / "squad1" / "main")
    source = Source(task="squad", train="train.json", dev="dev.json")
    recipe = Recipe(name="squad1", sources=[source], model=Model(name="bert-base-uncased"))
    write_text(run.recipe, recipe_to_yaml(recipe))
    write_text(run.root / "profile.yaml", "name: here\nwhere: local\n")
    num_shards = {"train": elements - 1, "dev": 1}
    prepared = {"folder": str(folder / "prepared" / "f00"), "fingerprint": "f00"}
    facts = {"id": "0" * 32, "recipe": "squad1", "name": "main", "attempt": 1}
    facts["created"] = "2026-01-02T03:04:05+0000"
    write_json(run.run_json, {**facts, "prepared": {**prepared, "num_shards": num_shards}})
    run.logs.mkdir()
    run.status.mkdir(exist_ok=True)
    names = [shard_name("train", i, elements - 1) for i in range(elements - 1)]
    counts = {"done": 0, "failed": 0, "missing": 0}
    for element, name in enumerate([*names, shard_name("dev", 0, 1)]):
        state = {3: "failed", 7: "missing"}.get(element % 10, "done")
        counts[state] += 1
        if state == "missing":
            continue
        (run.logs / f"prepare-{element}-1-0.out").write_text("# prepare\n" * 20)
        (run.logs / f"prepare-{element}-1-0.err").write_text("a warning\n" * 20)
        beat = {"state": state, "step": 100, "of": 100, "unit": "records", "seconds": 3.5}
        beat |= {"updated_at": time.time(), "attempt": 1, "host": "node1", "pid": 1000 + element}
        if state == "failed":
            beat["error"] = "No space left on device"
        else:
            shard = Path(prepared["folder"]) / name
            shard.mkdir(parents=True)
            files = {"arrays.bin": {"bytes": 1000, "sha256": "0" * 64}}
            (shard / "MANIFEST.json").write_text(json.dumps({"files": files, "arrays": {}}))
        run.status_file("prepare", element).write_text(json.dumps(beat))
    return run.root, counts


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
