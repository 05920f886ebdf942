"""jobs/tensorboard.py from the outside: it is really started, its page and its curves are fetched,
and it ends with Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabricated import fabricate

from jobs import tensorboard
from qa_dist.run_dir import RunDir
from qa_dist.scalars import ScalarWriter

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "jobs" / "tensorboard.py")


def run_with_curve(folder: Path, name: str) -> RunDir:
    run = fabricate(folder, name=name).run
    with ScalarWriter(run.tensorboard, run.root / "scalars.jsonl") as writer:
        writer.write(1, {"train/loss": 2.5})
        writer.write(2, {"train/loss": 1.5})
    return run


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """TensorBoard of two runs, started from the folder of the scripts; its address."""
    run_with_curve(tmp_path, "one")
    run_with_curve(tmp_path, "two")
    words = [sys.executable, SCRIPT, "tiny/one", "tiny/two", f"runs_dir={tmp_path / 'runs'}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT / "jobs")
    assert process.stdout
    text = ""
    while "http" not in text and process.poll() is None:
        text = process.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:\d+", text)
    assert match, text
    yield process, match[0]
    process.kill()
    process.wait()


@pytest.mark.slow
def test_the_page_and_the_curves_of_both_runs_come_until_ctrl_c(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = served
    assert "<title>TensorBoard</title>" in fetch(url)
    give_up_at = time.monotonic() + 60
    runs: list[str] = []
    while len(runs) < 2 and time.monotonic() < give_up_at:  # it reads them in the background
        runs = json.loads(fetch(f"{url}/data/runs"))
        time.sleep(0.2)
    assert sorted(runs) == ["tiny/one/train", "tiny/two/train"]
    loss = f"{url}/data/plugin/scalars/scalars?run=tiny/one/train&tag=train/loss"
    points = [point[1:] for point in json.loads(fetch(loss))]
    assert points == [[1, 2.5], [2, 1.5]]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    with pytest.raises(OSError):
        fetch(url)


@pytest.mark.parametrize("name", ["launch", "prepare", "train", "evaluate", "aggregate"])
def test_the_other_scripts_find_the_package_of_the_same_name(name: str) -> None:
    """Python looks for imports where a script lies, and there is a tensorboard.py beside them."""
    code = (
        f"import runpy, sys; sys.path[0] = 'jobs'; sys.argv = ['{name}.py', '--help']\n"
        f"try: runpy.run_path('jobs/{name}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import tensorboard; assert hasattr(tensorboard, '__version__'), tensorboard.__file__"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tiny/none"], "tiny/none: holds no run.json"),
        (["tiny/one", "port=high"], "port=high: expected a number"),
        (["tiny/one", "profile=debug"], "profile=debug: runs on this machine"),
        (["port=6006"], "which run?"),
        (["--lgodir"], "no such option"),
    ],
)
def test_mistakes_end_with_2(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fabricate(tmp_path)
    assert tensorboard.main([*words, f"runs_dir={tmp_path / 'runs'}"]) == 2
    assert text in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert tensorboard.main([]) == 0
    assert "jobs/tensorboard.py tiny_coqa/main" in capsys.readouterr().out
