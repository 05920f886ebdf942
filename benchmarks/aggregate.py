"""Row 19: the aggregate stage on a million question scores in 256 shards: its time and memory.

    python benchmarks/aggregate.py [questions=1000000] [runs=1]

Nobody else has this stage, so there is no peer. The run is made up, on disk as the real one leaves
it: SQuAD 2.0's form, dev and held-out questions in shards of prepared data with their markers, a
checkpoint's predictions with 20 best answers each (about 1 GB), and their markers. A process of its
own, imports included, then does all that the stage does: the predictions' sha256, each id once and
none missing, a threshold tuned on the held-out questions, three thresholds' EM and F1 with
bootstrap intervals, the breakdown, the official scripts' files, scores/*.json and TensorBoard. Of
the scores a mean is compared with the one that was written. Seconds of wall clock (goal <= 20) and
the most memory that the process held (goal < 1 GB). Making the input takes about half a minute.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from side_by_side import ROOT, Row, measured, run_script

SHARDS = {"dev": 232, "heldout": 24}
STEP = 1000
_CODE = """
import sys
from pathlib import Path
from qa_dist.evaluation.aggregate import aggregate
from qa_dist.run_dir import RunDir
aggregate(RunDir(Path(sys.argv[1])))
"""


def rows(questions: int = 1_000_000, runs: int = 1) -> Iterator[Row]:
    """Yield the rows of time and of memory."""
    with tempfile.TemporaryDirectory() as folder:
        expected = make_run(Path(folder), questions)
        run = Path(folder) / "runs" / "squad2" / "main"
        seconds, bytes_held = [], []
        for _ in range(runs):
            shutil.rmtree(run / "scores", ignore_errors=True)
            started = time.perf_counter()
            child = subprocess.Popen([sys.executable, "-c", _CODE, str(run)], cwd=ROOT)
            _, status, usage = os.wait4(child.pid, 0)
            seconds.append(time.perf_counter() - started)
            bytes_held.append(usage.ru_maxrss * 1024)
            if status:
                raise SystemExit("the aggregate failed")
        check(run, questions, expected)
    name = f"aggregate {questions:,} questions in {sum(SHARDS.values())} shards"
    middle = sorted(seconds)[runs // 2]
    yield measured(name, middle, "s", "<= 20", runs=runs, libraries=("numpy",))
    memory = max(bytes_held) / 1e9
    yield measured(f"{name}: memory", memory, "GB", "<= 1", runs=runs, libraries=("numpy",))


def check(run: Path, questions: int, expected: dict[str, float]) -> None:
    """Stop with an error where the scores aren't those of the rows."""
    scores = json.loads((run / "scores" / f"step-{STEP:08d}.json").read_text())
    found = scores["scores"]["at_0"]["f1"]
    if scores["num_questions"] != expected["questions"] or abs(found - expected["f1"]) > 1e-9:
        raise SystemExit(f"expected {expected}, found {scores['num_questions']} and {found}")


def make_run(folder: Path, questions: int) -> dict[str, float]:
    """Write the run; return how many questions dev has, and their F1 in percent at threshold 0."""
    sys.path.insert(0, str(ROOT))
    import math

    from qa_dist.files import write_json, write_text
    from qa_dist.recipe import Model, Recipe, Source
    from qa_dist.recipe_loading import recipe_to_yaml
    from qa_dist.run_dir import RunDir, step_name

    run = RunDir(folder / "runs" / "squad2" / "main")
    source = Source(task="squad", train="train.json", dev="dev.json", heldout_fraction=0.1)
    recipe = Recipe(name="squad2", sources=[source], model=Model(name="bert-base-uncased"))
    write_text(run.recipe, recipe_to_yaml(recipe))
    write_text(run.root / "profile.yaml", "name: here\nwhere: local\n")
    prepared = {"folder": str(folder / "prepared" / "f00"), "fingerprint": "f00"}
    num_shards = {"train": 1, **SHARDS}
    write_json(run.run_json, {"id": "0" * 32, "prepared": {**prepared, "num_shards": num_shards}})
    write_json(run.checkpoints / step_name(STEP) / "MANIFEST.json", {"files": {}})
    template = write_shard(folder / "template", per_shard(questions))
    totals: list[float] = []
    number, rng = 0, random.Random(0)
    for split, count in SHARDS.items():
        for index in range(count):
            name = f"{split}-{index:05d}-of-{count:05d}"
            copy_shard(template, Path(prepared["folder"]) / name, number)
            scores = write_rows(
                run.predictions / step_name(STEP), name, number, per_shard(questions), rng
            )
            totals += scores if split == "dev" else []
            number += 1
    return {"questions": len(totals), "f1": 100 * math.fsum(totals) / len(totals)}


def per_shard(questions: int) -> int:
    return -(-questions // sum(SHARDS.values()))


def write_shard(folder: Path, count: int) -> Path:
    """Write one prepared shard of so many questions, five on a context; return its folder."""
    import numpy as np

    from qa_dist.data.shard_writer import ShardWriter

    writer = ShardWriter(folder, 30_522)
    tokens = np.arange(150)
    for number in range(count):
        if number % 5 == 0:
            context = writer.add_context("word " * 150, tokens, tokens * 5, tokens * 5 + 4)
        answers = [] if number % 3 == 0 else ["some words", "words"]
        facts = {"id": question_id(0, number), "answers": answers, "rule": "squad_v2"}
        facts |= {"group": "an article", "facets": {"answer_type": kind(number)}}
        example = writer.add_example(context, list(range(12)), facts)
        writer.add_window(example, (0, 150), (0, 3, 4), 165)
    writer.finish(template={}, classes=[])
    return folder


def question_id(shard: int, number: int) -> str:
    return f"{shard:08x}{number:016x}"


def kind(number: int) -> str:
    return "no answer" if number % 3 == 0 else "span"


def copy_shard(template: Path, folder: Path, shard: int) -> None:
    """Write the same shard with other ids."""
    from qa_dist.files import MARKER, write_json

    marker = json.loads((template / MARKER).read_text())
    content = (template / "arrays.bin").read_bytes()
    content = content.replace(b'"id":"00000000', f'"id":"{shard:08x}'.encode())
    folder.mkdir(parents=True)
    (folder / "arrays.bin").write_bytes(content)
    marker["files"]["arrays.bin"]["sha256"] = hashlib.sha256(content).hexdigest()
    write_json(folder / MARKER, marker)


_POOL = [
    ", ".join(
        json.dumps([f"some words {i} of {k}", 9.1234 - k / 3, [100 + i, 130 + i]])
        for k in range(20)
    )
    for i in range(500)
]
"""N best lists, as rows have them."""


def write_rows(folder: Path, name: str, shard: int, count: int, rng: random.Random) -> list[float]:
    """Write a shard's predictions and their marker; return the F1 of each at threshold 0."""
    from qa_dist.files import write_json

    folder.mkdir(parents=True, exist_ok=True)
    lines, scores = [], []
    for number in range(count):
        is_null = number % 3 == 0
        words, gold = rng.randint(1, 9), rng.randint(1, 9)
        shared = 0 if is_null else rng.randint(0, min(words, gold))
        f1, odds = 2 * shared / (words + gold), rng.gauss(2 if is_null else -2, 3)
        scores.append(float(is_null) if odds > 0 else f1)
        lines.append(
            f'{{"id": "{question_id(shard, number)}", "group": "an article", "rule": "squad_v2", '
            f'"facets": {{"answer_type": "{kind(number)}"}}, "text": "some words {odds}", '
            f'"null_odds": {odds}, "exact": {int(f1 == 1)}, "f1": {f1}, '
            f'"null_exact": {int(is_null)}, "null_f1": {int(is_null)}, '
            f'"n_best": [{_POOL[number % 500]}]}}\n'
        )
    content = "".join(lines).encode()
    (folder / f"{name}.jsonl").write_bytes(content)
    facts: dict[str, Any] = {"rows": len(lines), "bytes": len(content), "run": "0" * 32}
    facts |= {"sha256": hashlib.sha256(content).hexdigest(), "weights": "", "fingerprint": "f00"}
    write_json(folder / f"{name}.json", facts)
    return scores


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
