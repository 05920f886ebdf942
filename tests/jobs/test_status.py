"""jobs/status.py from the outside: it starts at once, and its words and exit statuses."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from fabricated import FakeRun, fabricate
from fake_slurm import FakeSlurm

from qa_dist.run_dir import SweepDir
from qa_dist.sweep import Member, write_sweep

ROOT = Path(__file__).resolve().parents[2]
MAX_CPU_S = 0.5


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"jobs_{name}", ROOT / "jobs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


status = load_script("status")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    slurm = FakeSlurm(tmp_path / "bin", monkeypatch)
    slurm.has_no_accounting()
    slurm.answers("squeue", "2|N/A|RUNNING|None|n1|1|(null)\n")
    fake = fabricate(tmp_path)
    fake.prepare(0)
    fake.submit("train", 2)
    return fake


@pytest.fixture
def sweep(fake: FakeRun, tmp_path: Path) -> str:
    """A sweep with the run that trains, one that is done and one that isn't begun."""
    done = fabricate(tmp_path, name="two")
    done.train(8, 8)
    done.score(8)
    members = [Member(name, {"train.seed": n}) for n, name in enumerate(("one", "two", "three"))]
    write_sweep(SweepDir(tmp_path / "runs" / "tiny" / "many.sweep"), "tiny", members)
    return "tiny/many"


@pytest.mark.parametrize(
    ("name", "word"),
    [("status", "tiny/one"), ("status", "tiny/many"), ("logs", "tiny/one")]
    + [(name, "tiny/one") for name in ("cancel", "retry")],
)
def test_each_starts_at_once_without_anything_heavy(
    name: str, word: str, fake: FakeRun, sweep: str, tmp_path: Path
) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['{name}.py', '{word}', 'runs_dir={tmp_path}/runs']\n"
        f"try: runpy.run_path('jobs/{name}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'submitit', 'omegaconf'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < MAX_CPU_S, f"{seconds:.2f} s"


def test_one_run_and_all_runs(
    fake: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_dir = f"runs_dir={tmp_path}/runs"
    assert status.main(["tiny/one", runs_dir]) == 0
    assert "tiny/one: running, attempt 1" in capsys.readouterr().out
    fabricate(tmp_path, name="two")
    assert status.main([runs_dir]) == 0
    out = capsys.readouterr().out
    assert "tiny/one" in out and "tiny/two" in out


def test_a_sweep_shows_its_runs_and_results(
    sweep: str, fake: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([sweep, f"runs_dir={tmp_path}/runs"]) == 0
    out = capsys.readouterr().out
    assert "tiny/one" in out and "running" in out and "not begun: three" in out
    assert "tiny/many: 1 of 3 runs are done" in out and "70.5" in out
    assert status.main([sweep, f"runs_dir={tmp_path}/runs", "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)] == ["one", "two"]
    fake.beat("train", 0, "failed", error="no kernel image")
    assert status.main([sweep, f"runs_dir={tmp_path}/runs"]) == 1


def test_json_is_for_programs(
    fake: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([str(fake.run.root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["state"] == "running" and facts["stages"][1]["elements"]["running"] == 1
    assert facts["stages"][1]["not_done"][0]["nodes"] == "n1"
    status.main([f"runs_dir={tmp_path}/runs", "--json"])
    assert [run["name"] for run in json.loads(capsys.readouterr().out)] == ["one"]


def test_a_failed_run_ends_with_1(fake: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    fake.beat("train", 0, "failed", error="no kernel image")
    assert status.main([str(fake.run.root)]) == 1
    assert "train 0 failed: no kernel image" in capsys.readouterr().out


def test_watching_ends_with_the_run(
    fake: FakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        fake.beat("train", 0, "failed", error="it broke")

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=pause))
    assert status.main([str(fake.run.root), "--watch"]) == 1
    assert pauses == [5.0] and "it broke" in capsys.readouterr().out


def test_mistakes_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([f"runs_dir={tmp_path}"]) == 2
    assert "there are no runs" in capsys.readouterr().err
    assert status.main(["--help"]) == 0 and "--watch" in capsys.readouterr().out
    assert status.main(["--wach"]) == 2
