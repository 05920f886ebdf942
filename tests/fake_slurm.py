"""Stand-ins for SLURM's commands on PATH, for what a real cluster can't be made to do at will."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SBATCH = """#!/bin/sh
echo "sbatch $*" >> {folder}/calls
n=$(($(cat {folder}/count) + 1))
[ -e {folder}/refuse-$n ] && {{ cat {folder}/refuse-$n >&2; exit 1; }}
echo $n > {folder}/count
cp "$1" {folder}/script-$n
env > {folder}/environ-$n
echo "Submitted batch job $((100 + n))"
"""
_RECORD = """#!/bin/sh
echo "{name} $*" >> {folder}/calls
cat {folder}/{name}.out
cat {folder}/{name}.err >&2
exit $(cat {folder}/{name}.status)
"""


class FakeSlurm:
    """Commands first on PATH: sbatch counts jobs from 101 and keeps scripts; the others answer what
    the test told them to, at first nothing."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "count").write_text("0")
        self._write("sbatch", _SBATCH)
        for name in ("srun", "squeue", "sacct", "sacctmgr", "scontrol", "scancel", "sinfo"):
            self.answers(name, "")
            self._write(name, _RECORD)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text.format(folder=self.folder, name=name))
        path.chmod(0o700)

    def answers(self, name: str, text: str, error: str = "", status: int | None = None) -> None:
        """Let a command print `text` and, to stderr, `error`; with an error it fails."""
        (self.folder / f"{name}.out").write_text(text)
        (self.folder / f"{name}.err").write_text(error)
        (self.folder / f"{name}.status").write_text(
            str(int(bool(error)) if status is None else status)
        )

    def says(self, name: str, text: str) -> None:
        """Let a command print `text`."""
        self.answers(name, text)

    def fails(self, name: str, error: str) -> None:
        """Let a command fail with `error`."""
        self.answers(name, "", error)

    def has_no_accounting(self) -> None:
        """Answer as a cluster without accounting does."""
        self.fails("sacct", "Slurm accounting storage is disabled")

    def refuses(self, number: int, text: str) -> None:
        """Let the nth sbatch fail."""
        (self.folder / f"refuse-{number}").write_text(text)

    @property
    def calls(self) -> list[str]:
        """The commands that were called, with their words."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def script(self, number: int) -> str:
        return (self.folder / f"script-{number}").read_text()

    def environ(self, number: int) -> str:
        return (self.folder / f"environ-{number}").read_text()

    @property
    def num_submitted(self) -> int:
        return int((self.folder / "count").read_text())


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "fake-slurm", monkeypatch)
    partition = "PartitionName=low Default=YES State=UP MaxTime=UNLIMITED TotalNodes=9"
    fake.says("scontrol", f"MaxArraySize            = 4\n{partition}\n")
    return fake
