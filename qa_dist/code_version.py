"""Which code runs: a short hash of the package's source, kept in run.json and with each checkpoint.

In: a folder with the package. Out: its version, and which files differ from another's.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from qa_dist.files import canonical_json, file_sha256

PACKAGE = Path(__file__).resolve().parent


@cache
def code_version(package: Path = PACKAGE) -> str:
    """Return 12 hex digits that are the same for the same Python files; asked once per process."""
    return hashlib.sha256(canonical_json(_hashes(package)).encode()).hexdigest()[:12]


def changed_files(package: Path) -> list[str]:
    """Return the files in which this code differs from `package`, e.g. "qa_dist/prepare.py"."""
    ours, theirs = _hashes(PACKAGE), _hashes(package)
    return sorted(f"qa_dist/{f}" for f in ours | theirs if ours.get(f) != theirs.get(f))


def _hashes(package: Path) -> dict[str, str]:
    return {str(f.relative_to(package)): file_sha256(f) for f in sorted(package.rglob("*.py"))}
