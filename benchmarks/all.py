"""All rows that need no GPU: one table, and benchmarks/results.json.

    python benchmarks/all.py [name ...]      # make bench; names: those of some scripts alone

Each script runs in a process of its own, one after the other, with two threads unless it says
otherwise. Prints a Markdown table as rows come; writes results.json (machine, seconds of each
script, rows) after each script. Exits with 1 where a script failed, not where a goal is missed:
the table says so. With names, the rows of the other scripts stay in results.json as they are.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import HEADER, Row

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.json"
SCRIPTS = (
    "crf",
    "crf_step",
    "prepare",
    "prepare_memory",
    "training",
    "n_best",
    "em_f1",
    "checkpointing",
    "start_up",
    "cli",
    "aggregate",
    "status",
)
LIMIT_S = 900


def main(names: list[str]) -> int:
    """Run the scripts, print the table, write results.json; return the exit status."""
    if {"-h", "--help"} & set(names):
        print(__doc__)
        return 0
    if unknown := sorted(set(names) - set(SCRIPTS)):
        print(f"error: {', '.join(unknown)}: expected some of {', '.join(SCRIPTS)}")
        return 2
    results: dict[str, Any] = {}
    if names and RESULTS.exists():
        results = json.loads(RESULTS.read_text())["scripts"]
    print(HEADER, flush=True)
    failed = []
    for name in names or SCRIPTS:
        started = time.monotonic()
        rows, error = run(name)
        seconds = round(time.monotonic() - started, 1)
        results[name] = {"seconds": seconds, "machine": machine(), "rows": rows}
        if error:
            failed.append(name)
            results[name]["error"] = error.splitlines()[-1]
            print(f"{name}.py failed after {seconds:g} s:\n{error}", file=sys.stderr, flush=True)
        ordered = {name: results[name] for name in SCRIPTS if name in results}
        RESULTS.write_text(json.dumps({"scripts": ordered}, indent=1) + "\n")
    total = sum(each["seconds"] for each in ordered.values())
    every = [row for each in ordered.values() for row in each["rows"]]
    missed = [row["name"] for row in every if row["holds"] is False]
    print(f"\n{len(every)} rows, {total / 60:.1f} min; below their goal: {len(missed)}")
    print(*missed, sep="\n")
    if failed:
        print(f"failed: {', '.join(failed)} (see above)")
    print(f"written to {RESULTS}")
    return 1 if failed else 0


def run(name: str) -> tuple[list[dict[str, Any]], str]:
    """Run a script; print its rows as they come and return them, with what it said if it failed."""
    command = ["timeout", str(LIMIT_S), sys.executable, str(FOLDER / f"{name}.py"), "--json"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    row = json.loads(line)
                except ValueError:  # what a process that it started had to say
                    print(line.rstrip(), file=sys.stderr, flush=True)
                    continue
                rows.append(row)
                fields = {key: value for key, value in row.items() if key != "holds"}
                print(Row(**fields).as_line(), flush=True)
        log.seek(0)
        said = log.read()[-3000:].strip() or f"exit status {process.returncode}"
    return rows, said if process.returncode else ""


def machine() -> dict[str, Any]:
    """Return what the rows ran on."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "system": platform.system()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
