"""The code is copied into the run; the warning that it changed is in test_pipeline.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qa_dist.cluster.snapshot import save_code
from qa_dist.profile import Profile
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

PROFILE = Profile(name="here", where="slurm")


def test_the_code_is_copied_into_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    save_code(run, PROFILE)
    code = run.root / "code"
    assert (code / "qa_dist" / "training" / "loop.py").is_file()
    assert "module load" in (code / "slurm" / "env.sh").read_text()
    assert not list(code.rglob("*.pyc"))
    env_file = tmp_path / "mine.sh"
    env_file.write_text("export A=1\n")
    save_code(run, replace(PROFILE, env_file=str(env_file)))
    assert (code / "slurm" / "env.sh").read_text() == "export A=1\n"
    with pytest.raises(InputError, match="env_file=/nowhere: there is no such file"):
        save_code(run, replace(PROFILE, env_file="/nowhere"))
    assert (code / "slurm" / "env.sh").read_text() == "export A=1\n", "the old one stays"
    assert [path.name for path in run.root.iterdir()] == ["code"]
