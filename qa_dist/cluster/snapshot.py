"""The code that a run's attempts run: copied into the run when something of it is launched.

What happens to the checkout afterwards doesn't matter to jobs that wait or are queued again. Which
code it is, is noted in run.json, and launching with another says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from qa_dist.attempts import update_run
from qa_dist.code_version import changed_files, code_version
from qa_dist.files import read_json
from qa_dist.profile import Profile
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

CODE = Path(__file__).resolve().parents[2]


def save_code(run: RunDir, profile: Profile) -> None:
    """Copy the code into the run's folder `code`. Raises InputError if env_file isn't there."""
    code, temporary = run.root / "code", run.root / ".code.tmp"
    env_file = Path(profile.env_file or CODE / "slurm" / "env.sh").expanduser()
    if not env_file.is_file():
        raise InputError(f"env_file={env_file}: there is no such file")
    shutil.rmtree(temporary, ignore_errors=True)
    keep = shutil.ignore_patterns("__pycache__", "*.pyc", "encoder", "*.json")
    shutil.copytree(  # the bytes alone: times and modes would take as long again
        CODE / "qa_dist", temporary / "qa_dist", ignore=keep, copy_function=shutil.copyfile
    )
    (temporary / "slurm").mkdir()
    shutil.copy(env_file, temporary / "slurm" / "env.sh")
    shutil.rmtree(code, ignore_errors=True)
    temporary.rename(code)


def note_code(run: RunDir, console: Console) -> None:
    """Note in run.json which code runs from now on; warn if it isn't the one before."""
    before, now = read_json(run.run_json).get("code"), code_version()
    if before == now:
        return
    if before:
        package = run.root / "code" / "qa_dist"
        names = changed_files(package) if package.is_dir() else []
        named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        console.print(
            f"warning: the code has changed since this run was last launched ({before} -> {now}"
            f"{': ' if named else ''}{named}); what is still to do is done by the new one. For a "
            "run of one code give name=..., or fresh=true to begin anew",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    update_run(run, code=now)
