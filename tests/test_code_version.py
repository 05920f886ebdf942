"""The version of the code changes with each file of it, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qa_dist.code_version import PACKAGE, changed_files, code_version


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "qa_dist"))


def test_the_same_code_elsewhere_has_the_same_version(package: Path) -> None:
    (package / "sample" / "notes.json").write_text("{}")
    assert code_version(package) == code_version()
    assert len(code_version()) == 12
    assert changed_files(package) == []


@pytest.mark.parametrize("name", ["training/loop.py", "training/more.py"])
def test_t21_a_changed_or_new_file_is_another_version(package: Path, name: str) -> None:
    with (package / name).open("a") as stream:
        stream.write("# one more line")
    assert code_version(package) != code_version()
    assert changed_files(package) == [f"qa_dist/{name}"]


def test_a_file_that_is_gone_is_another_version(package: Path) -> None:
    (package / "files.py").unlink()
    assert code_version(package) != code_version()
    assert changed_files(package) == ["qa_dist/files.py"]
