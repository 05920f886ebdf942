"""What needs datasets, DeepSpeed, submitit and the like imports them late: a machine with a GPU and
without them can train, evaluate and run the benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = (
    "bitsandbytes",
    "datasets",
    "deepspeed",
    "pytorch_crf",
    "rich",
    "submitit",
    "tensorboard",
    "torchcrf",
)
IMPORTS = """
import importlib, importlib.util
for name in %r:
    assert importlib.util.find_spec(name) is None, name
import qa_dist.training.loop, qa_dist.models, qa_dist.evaluation.predict, qa_dist.prepare
import qa_dist.models.causal_lm, qa_dist.models.multitask, qa_dist.cluster.open_run
"""


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has what this one has but for EXTRAS."""
    folder = tmp_path_factory.mktemp("site-packages")
    for path in Path(torch.__file__).parents[1].iterdir():
        if not path.name.lower().startswith(EXTRAS):
            (folder / path.name).symlink_to(path)
    kept = {k: v for k, v in os.environ.items() if k != "QA_DIST_TEST_DATA"}
    return {**kept, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}


def run(environ: dict[str, str], *words: str) -> str:
    """Run Python without its own site-packages; return what it printed."""
    command = [sys.executable, "-S", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_training_and_evaluation_are_imported_without_them(environ: dict[str, str]) -> None:
    run(environ, "-c", IMPORTS % (EXTRAS,))


def test_a_benchmark_trains_without_them(environ: dict[str, str]) -> None:
    words = ("shape=tiny", "runs=1", "questions=200", "threads=1", "--json")
    words += ("only=grouped by length, no",)
    (line,) = run(environ, str(ROOT / "benchmarks" / "training.py"), *words).splitlines()
    row = json.loads(line)
    assert row["ours"] > 0 and row["theirs"] > 0 and "made-up text" in row["note"]
