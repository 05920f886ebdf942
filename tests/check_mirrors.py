"""Check that each module of qa_dist has a test file of the same path and name; print those that
lack one."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def missing_tests(root: Path = ROOT) -> list[str]:
    """Return "module: the test file it should have" for each module without one."""
    missing = []
    for module in sorted((root / "qa_dist").rglob("*.py")):
        if module.name == "__init__.py":
            continue
        path = module.relative_to(root / "qa_dist")
        test = Path("tests") / path.parent / f"test_{path.name}"
        if not (root / test).is_file():
            missing.append(f"qa_dist/{path}: no {test}")
    return missing


if __name__ == "__main__":
    lines = missing_tests()
    print("\n".join(lines) or "each module has its test file")
    sys.exit(bool(lines))
