"""Injection points: inert unless asked for, exact about when they fire, and on record before."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qa_dist import faults

SOURCE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "faults.log"
    monkeypatch.setenv(faults.LOG_VARIABLE, str(path))
    for name in ("RANK", "SLURM_PROCID", "SLURM_RESTART_COUNT", faults.ATTEMPT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    yield path
    faults.arm("")


def points(log: Path) -> list[str]:
    return [firing["point"] for firing in faults.read_log(log)]


def run_python(code: str, fault: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE), faults.VARIABLE: fault, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


REACH = "from qa_dist import faults\nfor step in range(4): faults.reach('p', step)\nprint('end')"


def test_inert_without_the_variable(log: Path) -> None:
    assert faults.reach("anything", 3) is None
    assert points(log) == []


@pytest.mark.parametrize(
    ("action", "number"),
    [("kill9", signal.SIGKILL), ("term", signal.SIGTERM), ("usr2", signal.SIGUSR2)],
)
def test_signals_a_real_process_and_has_logged_before(
    log: Path, action: str, number: signal.Signals
) -> None:
    result = run_python(REACH, f"point=p;rank=1;step=2;attempt=3;action={action}", RANK="1")
    assert result.returncode == 0 and points(log) == [], "attempt 0 must not be hit"
    environ = {"SLURM_PROCID": "1", "SLURM_RESTART_COUNT": "3"}
    result = run_python(REACH, f"point=p;rank=1;step=2;attempt=3;action={action}", **environ)
    assert result.returncode == -number, result.stderr
    assert "end" not in result.stdout
    [firing] = faults.read_log(log)
    expected = {"point": "p", "action": action, "step": 2, "rank": 1, "attempt": 3}
    assert expected.items() <= firing.items()


def test_stop_freezes_until_continued(log: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(SOURCE), faults.VARIABLE: "point=p;action=stop"}
    with subprocess.Popen([sys.executable, "-c", REACH], env=environ) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert points(log) == ["p"]
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(30) == 0


def test_raise_enospc_nan_and_sleep(log: Path) -> None:
    faults.arm("point=a;action=raise | point=b;action=enospc|point=c;action=nan|")
    with pytest.raises(RuntimeError, match="injected fault at a"):
        faults.reach("a")
    with pytest.raises(OSError, match="No space left") as caught:
        faults.reach("b")
    assert caught.value.errno == errno.ENOSPC
    assert faults.reach("c", 7) == "nan"
    faults.arm("point=d;action=sleep:0.2")
    started = time.monotonic()
    assert faults.reach("d") is None
    assert time.monotonic() - started >= 0.2
    assert points(log) == ["a", "b", "c", "d"]


def test_times_and_after(log: Path) -> None:
    faults.arm("point=p;action=nan;after=1;times=2")
    assert [faults.reach("p") for _ in range(5)] == [None, "nan", "nan", None, None]
    assert len(points(log)) == 2


@pytest.mark.parametrize(
    ("spec", "point", "step", "environ"),
    [
        ("point=p;action=nan", "q", 1, {}),
        ("point=p;action=nan;step=2", "p", 1, {}),
        ("point=p;action=nan;step=2", "p", None, {}),
        ("point=p;action=nan;rank=1", "p", 1, {"RANK": "0"}),
        ("point=p;action=nan;rank=0", "p", 1, {"RANK": "1", "SLURM_PROCID": "0"}),
        ("point=p;action=nan;attempt=0", "p", 1, {faults.ATTEMPT_VARIABLE: "1"}),
    ],
)
def test_what_does_not_match_does_not_fire(
    spec: str,
    point: str,
    step: int | None,
    environ: dict[str, str],
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    faults.arm(spec)
    assert faults.reach(point, step) is None
    assert points(log) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("point=p;action=kill", "action='kill'"),
        ("point=p;action=sleep:long", "action='sleep:long'"),
        ("point=p", "action=''"),
        ("action=kill9", "no point="),
        ("point=p;action=nan;stpe=3", "unknown field 'stpe'"),
        ("point=p;action=nan;step=x", "invalid literal"),
    ],
)
def test_misspelt_specs_raise(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        faults.read_specs(spec)


def test_importing_is_cheap() -> None:
    code = "import sys, qa_dist.faults; print('torch' in sys.modules)"
    assert run_python(code, "").stdout == "False\n"
