"""jobs/launch.py from the outside: quick answers, one clear line per mistake, nothing written."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from runs import fault_environ
from zygote import Zygote

from qa_dist import faults
from qa_dist.cluster import launch as launching
from qa_dist.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
MAX_CPU_S = 2.0  # 0.5 s on an idle machine; torch alone takes more than 2 s


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", ROOT / "jobs" / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launch = load_script()


class Answer:
    """What a launch in this process printed."""

    def __init__(self, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
        self.status = launch.main(words)
        self.out, self.err = capsys.readouterr()


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Answer:
    return Answer(words, capsys)


@pytest.fixture
def words(launch_words: list[str], tmp_path: Path) -> list[str]:
    """A right command; its folders don't exist yet."""
    kept = [w for w in launch_words if not w.startswith(("prepared_dir=", "profile="))]
    places = [f"runs_dir={tmp_path / 'runs'}", f"prepared_dir={tmp_path / 'prepared'}"]
    return [*kept, *places, "profile=local"]


# ---- quick answers


@pytest.mark.parametrize(
    ("word", "shown"),
    [("--help", "train.learning_rate=3e-05"), ("recipe=?", "coqa_electra"), ("recipe=x", "")],
)
def test_help_recipes_and_mistakes_come_at_once_without_torch(word: str, shown: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['launch.py', {word!r}]\n"
        "try: runpy.run_path('jobs/launch.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'submitit', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MAX_CPU_S


def test_a_dry_run_shows_the_plan_writes_nothing_and_loads_no_torch(
    words: list[str], tmp_path: Path
) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['launch.py', *{[*words, 'dry_run=true']!r}]\n"
        "try: runpy.run_path('jobs/launch.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "batch_windows: 8" in done.stdout and "about 8 steps of 8 windows" in done.stdout
    assert done.stdout.endswith("dry run: nothing was written\n")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "prepared").exists()


def test_help_names_each_launch_key_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "--help")
    assert answer.status == 0 and answer.err == ""
    for key in launch.LAUNCH_KEYS:
        assert f"\n  {key}=" in answer.out
    assert "train.clip_norm=1.0\n      Global gradient norm" in answer.out
    assert ask(capsys).out == answer.out, "no words at all: help too"


def test_recipes_are_listed_with_their_heads(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ask(capsys, "recipe=?").out.splitlines()
    assert len(lines) == len(list((ROOT / "configs" / "recipes").glob("*.yaml")))
    assert any(line.startswith("tiny_coqa ") and "CoQA" in line for line in lines)


# ---- one clear line per mistake, before anything is written

MISTAKES = {
    "recipe is missing": (["-recipe"], "recipe= is missing: give recipe=NAME; recipe=? lists them"),
    "recipe": (["recipe=tiny_coca"], 'did you mean "tiny_coqa"?'),
    "setting": (["train.learning_rat=1"], "train.learning_rate"),
    "nodes": (["nodes=2"], "nodes=2: profile=local runs on this machine alone, and several nodes"),
    "nodes in words": (["nodes=two"], "nodes=two: expected a whole number such as 4"),
    "gpus": (["gpus_per_node=3"], "gpus_per_node=3: this machine shows 0 GPUs"),
    "stage": (["stages=train,score"], "'score' is none of prepare, train, evaluate, aggregate"),
    "profile": (["profile=cluster"], "profile=cluster: there is none of that name"),
    "name": (["name=../x"], "name='../x'"),
    "flag": (["fresh=maybe"], "fresh=maybe: expected true or false"),
    "dry run": (["dry_run=1"], "dry_run=1: expected true or false"),
    "ranks": (["ranks_per_node=9"], "give train.min_micro_batches_per_step=9 (or fewer ranks)"),
    "input": (["sources.0.train=none.json"], "none.json: there is no such file"),
    "length": (["data.max_length_tokens=9000", "-micro"], "lower it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_a_line_before_anything_is_written(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mistake: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given, message = MISTAKES[mistake]
    by_key = {word.partition("=")[0]: word for word in (*words, *given)}
    if "-recipe" in given:
        del by_key["recipe"]
    answer = ask(capsys, *(word for word in by_key.values() if not word.startswith("-")))
    assert answer.status == 2
    assert answer.out == "" and answer.err.startswith("error: ")
    assert message in answer.err and "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_planning_is_no_traceback(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "load_recipe", interrupt)
    answer = ask(capsys, *words)
    assert answer.status == 130
    assert answer.err == "stopped before anything was started\n"


# ---- profile=debug: everything in this very process


def test_debug_runs_each_stage_in_the_launchers_own_process(
    zygote: Zygote, launch_words: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "faults.log"
    points = ("prepare.batch", "train.step", "evaluate.before_rename", "aggregate.after_json")
    fault = "|".join(f"point={point};action=sleep:0" for point in points)
    words = [w for w in launch_words if not w.startswith("prepared_dir=")]
    places = [f"runs_dir={tmp_path / 'runs'}", f"prepared_dir={tmp_path / 'prepared'}"]
    child = zygote.run("launch", *words, *places, env=fault_environ(fault, log))
    assert child.status == 0, child.text
    firings = faults.read_log(log)
    assert [firing["point"] for firing in firings] == list(points)
    assert {firing["pid"] for firing in firings} == {child.pid}
    run = RunDir(tmp_path / "runs" / "tiny_coqa" / "main")
    assert not run.logs.exists(), "stdout and stderr stay the terminal's"
    assert "train (1 elements) in this process" in child.text


def test_debug_lets_breakpoint_talk_to_the_terminal(
    zygote: Zygote, launch_words: list[str], tmp_path: Path
) -> None:
    typed = tmp_path / "typed"
    typed.write_text("p 6 * 7\nwhere\ncontinue\n")
    words = [*launch_words, f"runs_dir={tmp_path / 'runs'}", "stages=prepare,train"]
    child = zygote.run("breakpoint", *words, typed=str(typed))
    assert child.status == 0, child.text
    assert "(Pdb) 42" in child.text
    assert "train_step" in child.text, "the stack leads into the loop"


# ---- the command as a user types it


def test_the_whole_pipeline_as_one_command_from_another_folder(
    words: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "launch.py"), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160", "PYTHONDONTWRITEBYTECODE": ""},
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for stage in ("prepare", "train", "evaluate", "aggregate"):
        assert f"\n{stage}: done after " in done.stdout
    assert "━" in done.stdout and "\x1b" not in done.stdout, "a table, but no bar: it's a pipe"
    run = RunDir(tmp_path / "runs" / "tiny_coqa" / "main")
    assert run.scores_file(8).is_file()
    assert {path.suffix for path in run.logs.glob("*-0-1-0.*")} == {".out", ".err"}
    assert list((run.root / "code").rglob("loop.*.pyc")), "it was the run's own copy that ran"
    again = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "launch.py"), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert again.returncode == 0
    assert again.stdout.count("nothing to do, it is all there") == 4
