"""How long the commands take that a user types all day, from their start to their end.

    python benchmarks/cli.py [runs=5] [--json]

`launch.py --help`; `status.py RUN`; a submit with dry_run=true; and a submit: recipe, plan, code
snapshot and the six calls of a launch of four stages, with stand-ins for SLURM's commands first on
PATH that answer at once, so that the time is our own. No peer: nobody else does the same; the goal
is 0.5 s for each. Each is run once more, before, under `python -X importtime`: had it loaded torch,
this ends with an error; and it leaves the bytecode behind that a user's second command finds
(compiling it is 0.1 s of a submit). `python -c pass`, in the notes, tells how fast the machine is
just now.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from side_by_side import ROOT, Row, measured, run_script

STAND_INS = {
    "sbatch": 'echo "Submitted batch job $$"',
    "scontrol": 'echo "MaxArraySize = 1001"\n'
    'echo "PartitionName=all Default=YES State=UP MaxTime=UNLIMITED TotalNodes=9"',
    "squeue": "",
    "sinfo": "",
    "srun": "",
    "scancel": "",
    "sacctmgr": "",
    "sacct": 'echo "Slurm accounting storage is disabled" >&2; exit 1',
}


def rows(runs: int = 5) -> Iterator[Row]:
    """Yield one row for each command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stand_ins = folder / "bin"
        stand_ins.mkdir()
        for command, answer in STAND_INS.items():
            (stand_ins / command).write_text(f"#!/bin/sh\n{answer}\n")
            (stand_ins / command).chmod(0o700)
        os.environ["PATH"] = f"{stand_ins}{os.pathsep}{os.environ['PATH']}"
        os.chdir(folder)
        numbers = itertools.count()
        launch = [str(ROOT / "jobs" / "launch.py"), "recipe=tiny_coqa", "profile=slurm"]
        commands = {
            "a submit": lambda: [*launch, f"name=run-{next(numbers)}"],
            "a submit with dry_run=true": lambda: [*launch, "name=dry", "dry_run=true"],
            "status.py RUN": lambda: [str(ROOT / "jobs" / "status.py"), "tiny_coqa/run-0"],
            "launch.py --help": lambda: [launch[0], "--help"],
        }
        for title, words in commands.items():
            check(words())
            seconds = [timed(words()) for _ in range(runs)]
            bare = statistics.median(timed(["-c", "pass"]) for _ in range(runs))
            yield measured(
                title,
                statistics.median(seconds),
                "s",
                "<= 0.5",
                runs=runs,
                note=f"{min(seconds):.2f} to {max(seconds):.2f} s; torch isn't loaded; python -c "
                f"pass: {bare:.3f} s",
            )


def timed(words: Sequence[str]) -> float:
    """Return the seconds that a command takes."""
    started = time.perf_counter()
    process = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: {process.stdout}{process.stderr}")
    return seconds


def check(words: Sequence[str]) -> None:
    """Run a command; end with an error if it loads torch."""
    command = [sys.executable, "-X", "importtime", *words]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    modules = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    if process.returncode or "qa_dist" not in modules or "torch" in modules:
        raise SystemExit(f"{' '.join(words)}: fails, or loads torch\n{process.stdout}")


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
