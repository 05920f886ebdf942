"""jobs/cancel.py from the outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import fabricate
from fake_slurm import FakeSlurm

from jobs import cancel


def test_the_words_and_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm = FakeSlurm(tmp_path / "bin", monkeypatch)
    fake = fabricate(tmp_path)
    fake.submit("train", 2)
    slurm.answers("squeue", "2|N/A|RUNNING|None|n1|1|(null)\n")
    assert cancel.main([str(fake.run.root), "aggregate"]) == 0
    assert "nothing to cancel" in capsys.readouterr().out
    assert cancel.main(["tiny/one", f"runs_dir={tmp_path}/runs"]) == 0
    assert "cancelled train: job 2 (running)" in capsys.readouterr().out
    assert slurm.calls[-1] == "scancel 2"
    assert cancel.main(["tiny/none", f"runs_dir={tmp_path}/runs"]) == 2
    assert "did you mean tiny/one?" in capsys.readouterr().err
    assert cancel.main([]) == 0 and "jobs/cancel.py" in capsys.readouterr().out
