"""Install Debian's SLURM, without any of it being started as a service."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from settings import ClusterError

PACKAGE_OF = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
    "munged": "munge",
    # Its server without a service around it: mariadb-server depends on it.
    "mariadbd": "mariadb-server-core",
}
"""Program: the package that it comes with."""
POLICY = Path("/usr/sbin/policy-rc.d")
SYSTEM_FOLDERS = "/usr/sbin:/sbin"
"""Where daemons are, which isn't in every user's PATH."""
REFUSE = "#!/bin/sh\n# Written while slurm/cluster installs: no service starts.\nexit 101\n"


def missing() -> list[str]:
    """Return the packages whose programs aren't there."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}"
    return sorted({pkg for name, pkg in PACKAGE_OF.items() if not shutil.which(name, path=path)})


def install() -> list[str]:
    """Install what is missing; return its names. Where that can't be done, say what to install."""
    packages = missing()
    if not packages:
        return []
    by_hand = f"sudo apt-get install --no-install-recommends {' '.join(packages)}"
    if os.getuid() != 0:
        raise ClusterError(f"SLURM isn't installed here and this isn't root; run: {by_hand}")
    if not shutil.which("apt-get"):
        raise ClusterError(f"no apt-get here: install by hand {', '.join(PACKAGE_OF)}")
    print(f"installing {' '.join(packages)}", flush=True)
    with _no_services():
        _apt_get("update", "-qq", may_fail=True)
        _apt_get("install", "-y", "-qq", "--no-install-recommends", *packages)
    if missing():
        raise ClusterError(f"apt-get ended well but {', '.join(missing())} isn't there: {by_hand}")
    return packages


def _apt_get(*words: str, may_fail: bool = False) -> None:
    ended = subprocess.run(
        ["apt-get", "-o", "DPkg::Lock::Timeout=120", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if ended.returncode and not may_fail:
        lines = "\n".join(ended.stdout.splitlines()[-15:])
        raise ClusterError(f"apt-get {' '.join(words)} failed:\n{lines}")


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting their services; put back the machine's own policy afterwards."""
    before = POLICY.read_bytes() if POLICY.exists() else None
    mode = POLICY.stat().st_mode if before is not None else 0o755
    POLICY.write_text(REFUSE, encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink(missing_ok=True)
        else:
            POLICY.write_bytes(before)
            POLICY.chmod(mode)
