"""jobs/report.py from the outside: two runs compared, its files, its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qa_dist.files import read_json, write_text
from qa_dist.recipe_loading import load_recipe, recipe_to_yaml
from qa_dist.run_dir import RunDir

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "recipes"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runs_dir(finished_run: RunDir, tmp_path: Path) -> Path:
    """A family of two recipes, with the same run in both."""
    for recipe in ("coqa_bert", "coqa_electra"):
        shutil.copytree(finished_run.root, tmp_path / "runs" / recipe / "main")
    return tmp_path / "runs"


def test_a_family_and_its_published_figures(run_job: Run, runs_dir: Path) -> None:
    """Of a run as shipped, that is: the other one is the demo's."""
    shipped = load_recipe("coqa_bert", [], RECIPES)
    write_text(RunDir(runs_dir / "coqa_bert" / "main").recipe, recipe_to_yaml(shipped))
    shutil.copytree(runs_dir / "coqa_electra", runs_dir / "coqa_albert")
    done = run_job("report", "compare", "coqa", f"runs_dir={runs_dir}", "markdown=coqa.md")
    assert done.returncode == 0, done.stderr
    assert "coqa_bert/main" in done.stdout and "coqa_electra/main" in done.stdout
    assert "78.4" in done.stdout and "differences" not in done.stdout
    assert "81.0" not in done.stdout and "Published figures are left out" in done.stdout
    assert "| coqa_bert/main |" in (runs_dir.parent / "coqa.md").read_text()


def test_two_runs_are_tested_against_each_other(run_job: Run, runs_dir: Path) -> None:
    words = ("compare", "coqa_bert/main", "coqa_electra/main", f"runs_dir={runs_dir}")
    done = run_job("report", *words)
    assert done.returncode == 0, done.stderr
    assert "coqa_electra/main - coqa_bert/main" in done.stdout
    assert "+0.00 [+0.00, +0.00]" in done.stdout, "it is the same run"
    assert "by epoch" in done.stdout
    facts = json.loads(run_job("report", *words, "--json").stdout)
    scores = read_json(runs_dir / "coqa_bert" / "main" / "scores" / "step-00000008.json")
    expected = scores["scores"][scores["headline"]]["f1"]
    assert facts["sides"][0]["outcomes"][0]["sources"]["coqa"]["figures"]["f1"] == expected
    assert facts["pairs"][0]["differences"]["f1"]["p_value"] == 1.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plot"], "plot: no such report; there is: compare"),
        (["compare"], "give a family such as coqa"),
        (["compare", "nothing"], "holds no run.json"),
        (["compare", "a", "--fast"], "--fast: no such option"),
        (["compare", "coqa", "markdown=no/such/folder.md"], "markdown=no/such/folder.md: can't"),
    ],
)
def test_bad_words_are_one_line_and_status_2(
    run_job: Run, runs_dir: Path, words: list[str], expected: str
) -> None:
    done = run_job("report", *words, f"runs_dir={runs_dir}")
    assert done.returncode == 2
    assert expected in done.stderr and len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_help_is_the_docstring(run_job: Run) -> None:
    assert "paired tests" in run_job("report", "--help").stdout
