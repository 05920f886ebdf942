"""Which code a run's stages are done by: noted at each launch, and a warning if it has changed.

On a cluster each attempt runs the copy in the run's folder, so only a launch changes it.
"""

from __future__ import annotations

from rich.console import Console

from qa_dist.attempts import update_run
from qa_dist.code_version import changed_files, code_version
from qa_dist.files import read_json
from qa_dist.run_dir import RunDir

_MOST_NAMES = 3


def note_code(run: RunDir, console: Console) -> None:
    """Note in run.json which code runs from now on; warn if it isn't the one before."""
    before, now = read_json(run.run_json).get("code"), code_version()
    if before == now:
        return
    if before:
        package = run.root / "code" / "qa_dist"  # where it ran on this machine there is no copy
        names = changed_files(package) if package.is_dir() else []
        more = len(names) - _MOST_NAMES
        named = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        console.print(
            f"warning: the code has changed since this run was last launched ({before} -> {now}"
            f"{': ' if named else ''}{named}); what is still to do is done by the new one. For a "
            "run of one code give name=..., or fresh=true to begin anew",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    update_run(run, code=now)
