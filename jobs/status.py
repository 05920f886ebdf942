"""Show how runs are: what is done, runs, waits and why, failed and how, and when it will be done.

    python jobs/status.py                        all runs, newest first
    python jobs/status.py tiny_coqa/main         one run; its folder will do as well
    python jobs/status.py tiny_coqa/seeds        the runs of a sweep, and its results so far
    python jobs/status.py tiny_coqa/main --watch      again and again, until it ends
    python jobs/status.py tiny_coqa/main --json       for programs

runs_dir=FOLDER says where runs are kept (default runs).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa_dist.cluster.find_runs import all_runs, find_run, find_sweep, read_words, sweep_runs
from qa_dist.cluster.status import RunStatus, collect
from qa_dist.evaluation.sweep_table import make_table
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, SweepDir

_EVERY_S = 5.0


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 all is well, 1 a run that was asked for failed, 2 bad input."""
    if any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip())
        return 0
    try:
        words, flags, runs_dir = read_words(argv, 1, ("--json", "--watch"))
        sweep = find_sweep(words[0], runs_dir) if words else None
        if sweep:
            runs = sweep_runs(sweep)
        else:
            runs = [find_run(words[0], runs_dir)] if words else all_runs(runs_dir)
        if not runs and not sweep:
            raise InputError(f"{runs_dir}: there are no runs; give runs_dir= if they are elsewhere")
        if "--watch" in flags:
            found = watch(runs, bool(words) and not sweep)
        else:
            found = collect(runs)
            show(found, bool(words) and not sweep, "--json" in flags, sweep)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return int(bool(words) and any(run.state == "failed" for run in found))


def show(found: list[RunStatus], is_one: bool, as_json: bool, sweep: SweepDir | None) -> None:
    """Print how runs are: one, those of a sweep with its results, or several."""
    if as_json:
        facts = [run.to_json() for run in found]
        print(json.dumps(facts[0] if is_one else facts, indent=2))
        return
    from rich.console import Console

    from qa_dist.cluster.show_status import show_run, show_runs

    console = Console(width=None if sys.stdout.isatty() else 120)
    results = make_table(sweep) if sweep else None
    if results:
        from qa_dist.cluster import show_sweep

        console.print(show_sweep.show_status(found, results), highlight=False)
        return
    console.print(show_run(found[0]) if is_one else show_runs(found), highlight=False)


def watch(runs: list[RunDir], is_one: bool) -> list[RunStatus]:
    """Print how runs are every few seconds, until nothing runs or waits any more."""
    from rich.live import Live

    from qa_dist.cluster.show_status import show_run, show_runs

    found = collect(runs)
    with Live(auto_refresh=False) as live:
        while True:
            live.update(show_run(found[0]) if is_one else show_runs(found), refresh=True)
            if not any(run.state in ("running", "waiting") for run in found):
                return found
            time.sleep(_EVERY_S)
            found = collect(runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
