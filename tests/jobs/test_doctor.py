"""jobs/doctor.py from the outside: its lines, its JSON, and its exit statuses."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from jobs import doctor

__all__ = ["fake_slurm"]
FINE = ["only=preflight", "gpus_per_node=0"]


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def partitions(fake_slurm: FakeSlurm) -> None:
    line = "PartitionName=low Default=YES MaxTime=UNLIMITED State=UP TotalNodes=2\n"
    fake_slurm.says("scontrol", line)


def test_a_line_for_each_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(FINE) == 0
    out = capsys.readouterr().out
    assert out == "ok       preflight   profile=slurm passes what launch checks\n"


def test_a_problem_ends_with_1_and_says_what_to_do(
    fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.fails("sinfo", "Unable to contact slurm controller")
    assert doctor.main(["only=commands"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("problem  commands") and "To do: try again later" in line


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([*FINE, "partition=none", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["check"] == "preflight" and found["level"] == "problem"


def test_the_recipes_encoder_and_disk_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = doctor.read_words([*FINE, "recipe=tiny_coqa"])
    assert asked.recipe and Path(asked.recipe.model.name).is_absolute()
    assert asked.profile.gpus_per_node == 0 and asked.checks == ["preflight"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["profile=local"], "profile=local: runs on this machine"),
        (["profile=slrm"], "slurm"),
        (["only=netwrok"], 'did you mean "network"?'),
        (["start_s=soon"], "start_s=soon: expected seconds"),
        (["partitoin=low"], "partition"),
        (["slurm"], "expected key=value"),
    ],
)
def test_mistakes_end_with_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(words) == 2
    assert text in capsys.readouterr().err


def test_help_lists_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--help"]) == 0
    assert "  requeue     a job can put itself back" in capsys.readouterr().out


def test_a_stop_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(one: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "show", stop)
    assert doctor.main(FINE) == 130
    assert "stopped" in capsys.readouterr().err
