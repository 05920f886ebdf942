"""What is missing is installed by root and named to others; no service is started meanwhile."""

from __future__ import annotations

import importlib
import os
import stat
from pathlib import Path
from types import ModuleType

import pytest
from slurm_clusters import ROOT

APT_GET = """#!/bin/sh
echo "$@ [$DEBIAN_FRONTEND]" >> {calls}
{policy} >> {calls}; echo "services: $?" >> {calls}
case "$*" in *install*) {work} ;; esac
"""


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, on a machine that has nothing of SLURM and an apt-get that notes its calls."""
    monkeypatch.syspath_prepend(str(ROOT / "slurm" / "cluster"))
    module = importlib.import_module("install")
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "SYSTEM_FOLDERS", "")
    monkeypatch.setattr(module, "POLICY", tmp_path / "policy-rc.d")
    named = {f"made-up-{name}": package for name, package in module.PACKAGE_OF.items()}
    monkeypatch.setattr(module, "PACKAGE_OF", named)
    monkeypatch.setattr(module.os, "getuid", lambda: 0)
    return module


def make_apt_get(tmp_path: Path, work: str) -> Path:
    calls = tmp_path / "calls"
    script = tmp_path / "bin" / "apt-get"
    policy = tmp_path / "policy-rc.d"
    script.write_text(APT_GET.format(calls=calls, policy=policy, work=work))
    script.chmod(0o755)
    return calls


def test_root_installs_what_is_missing_and_no_service_starts(
    install: ModuleType, tmp_path: Path
) -> None:
    names = " ".join(install.PACKAGE_OF)
    work = f"cd {tmp_path}/bin; for n in {names}; do echo > $n; chmod +x $n; done"
    calls = make_apt_get(tmp_path, work)
    own = tmp_path / "policy-rc.d"
    own.write_text("#!/bin/sh\nexit 104\n")
    own.chmod(0o700)
    assert install.install() == sorted(set(install.PACKAGE_OF.values()))
    lines = calls.read_text().splitlines()
    assert "update -qq [noninteractive]" in lines[0] and lines[1] == "services: 101"
    assert all(package in lines[2] for package in ("slurmctld", "slurmdbd", "munge", "mariadb"))
    assert own.read_text() == "#!/bin/sh\nexit 104\n"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    calls.unlink()
    assert install.install() == []
    assert not calls.exists()


def test_a_failed_install_tells_what_apt_get_said_and_puts_the_policy_back(
    install: ModuleType, tmp_path: Path
) -> None:
    make_apt_get(tmp_path, "echo no such package; exit 100")
    with pytest.raises(install.ClusterError, match="no such package"):
        install.install()
    assert not (tmp_path / "policy-rc.d").exists()


def test_others_are_told_what_to_install(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.os, "getuid", lambda: 1000)
    with pytest.raises(install.ClusterError, match=r"sudo apt-get install .*slurmctld"):
        install.install()
