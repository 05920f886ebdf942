"""Launch the runs of a sweep: here one after the other, on SLURM all at once.

In: what launch.py read and checked of each run. Out: an exit status, and the table of results. What
runs share is done once: the look at their data, and the jobs that prepare it. Nothing is written or
queued before all of them are known to be right.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

from rich.console import Console

from qa_dist.cluster import open_run, pipeline, show_sweep
from qa_dist.cluster.going_on import submit_rest
from qa_dist.cluster.launch import (
    LaunchOptions,
    Wanted,
    end_status,
    held,
    make_console,
    open_files,
    print_forecast,
    wait_for,
)
from qa_dist.cluster.preflight import check_cluster
from qa_dist.cluster.queue import QueuedJob, QueueError
from qa_dist.cluster.slurm import check_paths, withdraw
from qa_dist.cluster.submitted import Submitted, live_among, read_submitted
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.evaluation.sweep_table import update_sweep
from qa_dist.files import read_json_if_there
from qa_dist.lock import locked
from qa_dist.recipe_loading import MAY_CHANGE, load_saved_recipe, recipe_difference
from qa_dist.records import InputError
from qa_dist.run_dir import SWEEP_ENDING, RunDir, SweepDir, check_private_folder
from qa_dist.sweep import SEED, Member, read_sweep, write_sweep

_KEPT = frozenset(MAY_CHANGE) - {"evaluation.*"}
"""What may differ between runs that are compared: they must be evaluated alike."""


def print_sweep(
    options: LaunchOptions, name: str, members: Sequence[Member], wanted: Sequence[Wanted]
) -> int:
    """Print the runs with how far they are, and the forecast of the first; return the status."""
    check_all(options, sweep_folder(options, name, wanted), members, wanted)
    recipe = wanted[0].recipe.name
    print(f"sweep {recipe}/{name}: {len(wanted)} runs")
    for one in wanted:
        run = one.folder(options)
        there = "trained" if pipeline.is_trained(run) else "begun" if run.run_json.exists() else ""
        print(f"  {one.name}  {there}".rstrip())
    print("\nthe first of them:\n")
    print_forecast(options, wanted[0])
    return 0


def launch_sweep(
    options: LaunchOptions, name: str, members: Sequence[Member], wanted: Sequence[Wanted]
) -> int:
    """Run or submit what is missing of each run; return the exit status."""
    folder, console = sweep_folder(options, name, wanted), make_console(options)
    recipe = wanted[0].recipe.name
    check_all(options, folder, members, wanted)
    open_run.open_root(options.runs_dir, folder.root.name, recipe)
    with locked(folder.root / "launch.lock", "this sweep is being launched"):
        kept = [] if options.is_fresh else other_members(folder, members)
        write_sweep(folder, recipe, [*kept, *members])
        console.print(f"sweep: {folder.root}, {len(wanted)} runs", highlight=False, soft_wrap=True)
        failed: dict[str, str] = {}
        start = _submit_all if options.profile.where == "slurm" else _run_all
        try:
            with _ended_by_sigterm():
                state = start(options, wanted, failed, console)
        except KeyboardInterrupt:
            state = "stopped"
        table = update_sweep(folder)
    if table is not None and "aggregate" in options.stages and state != "submitted":
        show_sweep.show_results(console, table, folder)
    for one, error in failed.items():
        print(f"error: {one}: {error}", file=sys.stderr)
    if failed:
        count = f"{len(failed)} of {len(wanted)} runs failed"
        print(f"{count}. The same command goes on from what is finished.", file=sys.stderr)
    status = end_status(state, console)
    return 1 if failed and not status else status


def sweep_folder(options: LaunchOptions, name: str, wanted: Sequence[Wanted]) -> SweepDir:
    """Return where a sweep is kept, whether or not it is there yet."""
    return SweepDir(options.runs_dir / wanted[0].recipe.name / f"{name}{SWEEP_ENDING}")


# ---- checks


def check_all(
    options: LaunchOptions, folder: SweepDir, members: Sequence[Member], wanted: Sequence[Wanted]
) -> None:
    """Raise InputError with the first thing that a launch of these runs would fail of."""
    runs = [one.folder(options) for one in wanted]
    for path in (options.runs_dir, folder.root.parent, folder.root, *(run.root for run in runs)):
        if path.exists() or path.is_symlink():
            check_private_folder(path)
    if not options.is_fresh:
        _check_others(folder, members, wanted)
        for run, one in zip(runs, wanted, strict=True):
            open_run.check_same(run, one.recipe, one.plan)
    if options.profile.where == "slurm":
        for run in runs:
            check_paths(run)
        pairs = zip(runs, wanted, strict=True)
        untrained = [one.recipe for run, one in pairs if not pipeline.is_trained(run)]
        check_cluster(options.profile, untrained, folder.root)


def other_members(folder: SweepDir, members: Sequence[Member]) -> list[Member]:
    """Return the runs of earlier launches that this one doesn't name."""
    sweep = read_sweep(folder)
    names = {member.name for member in members}
    return [member for member in (sweep.members if sweep else ()) if member.name not in names]


def _check_others(folder: SweepDir, members: Sequence[Member], wanted: Sequence[Wanted]) -> None:
    """Raise InputError if the runs that are in the sweep already can't be compared with these."""
    others = other_members(folder, members)
    problems: list[str] = []
    if others and list(others[0].values) != list(members[0].values):
        were, are = (", ".join(member.values) for member in (others[0], members[0]))
        problems.append(f"its runs differ in {were}, not in {are}")
    same_data = {_setting(member): one for member, one in zip(members, wanted, strict=True)}
    for other in others if not problems else ():
        run = folder.run(other.name)
        saved = read_json_if_there(run.run_json)
        if saved is None:
            continue
        lines = recipe_difference(load_saved_recipe(run.recipe), wanted[0].recipe, _KEPT)
        lines = [line for line in lines if line.partition(":")[0] not in other.values]
        beside = same_data.get(_setting(other))
        if beside and saved["prepared"]["fingerprint"] != beside.plan.fingerprint and not lines:
            lines = ["prepared data: the input or the tokenizer was changed"]
        problems += [f"{other.name}: {line}" for line in lines]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:10])
        raise InputError(
            f"{folder.root}: this sweep has runs that were made with other settings; give name=... "
            "for another sweep, or name all their values again, or fresh=true to begin the sweep "
            f"anew:{shown}"
        )


def _setting(member: Member) -> str:
    return repr([value for path, value in member.values.items() if path != SEED])


# ---- here


def _run_all(
    options: LaunchOptions, wanted: Sequence[Wanted], failed: dict[str, str], console: Console
) -> str:
    """Run one after the other; one that fails doesn't keep the others from running. Return "done"
    or "stopped"."""
    for number, one in enumerate(wanted, 1):
        shown = f"run {number} of {len(wanted)}: {one.name}"
        try:
            with held(options, one) as run:
                this_launch, prepared = open_files(options, one, run, console)
                missing = pipeline.missing_elements(run, one.recipe, prepared, options.stages)
                if not any(missing.values()):
                    console.print(f"{shown}: nothing to do, it is all there", highlight=False)
                    continue
                console.print(shown, highlight=False)
                if pipeline.run_stages(this_launch, one.plan, prepared, options.stages) != "done":
                    return "stopped"
        except (pipeline.StageFailedError, InputError) as error:
            failed[one.name] = str(error)
            console.print(f"{one.name} failed; the others go on", highlight=False)
    return "done"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do between two stages what Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


# ---- on SLURM


def _submit_all(
    options: LaunchOptions, wanted: Sequence[Wanted], failed: dict[str, str], console: Console
) -> str:
    """Submit what is missing of all runs that aren't live; follow them if asked to. Return "done",
    "submitted" or "stopped"."""
    with ExitStack() as locks:
        runs: dict[RunDir, Wanted] = {}
        for one in wanted:
            try:
                runs[locks.enter_context(held(options, one))] = one
            except InputError as error:
                console.print(f"left alone: {error}", highlight=False, soft_wrap=True)
        for run, one in runs.items():
            submit_rest(run, one.recipe, options.profile)
        live = _find_live(list(runs))
        for run, jobs in live.items():
            ids = ", ".join(sorted({f"{job.job} ({job.state.lower()})" for job in jobs}))
            console.print(
                f"left alone: {run.root.name}: its jobs are in the queue: {ids}",
                highlight=False,
                soft_wrap=True,
            )
        submitted = _submit_idle(options, runs, live, console)
    show_sweep.show_submitted(console, submitted)
    if not any(submitted.values()):
        if not live and len(runs) == len(wanted):
            console.print("nothing to do, it is all there", highlight=False)
        return "done"
    if not options.is_waiting:
        return "submitted"
    states = set()
    for run, own in submitted.items():
        if own:
            console.print(f"{run.root.name}:", highlight=False)
            try:
                states.add(wait_for(run, [job.stage for job in own], console))
            except pipeline.StageFailedError as error:
                failed[run.root.name] = str(error)
        if "submitted" in states:
            return "submitted"
    return "stopped" if "stopped" in states else "done"


def _find_live(runs: Sequence[RunDir]) -> dict[RunDir, list[QueuedJob]]:
    """Return the runs with jobs in the queue. Raises InputError if SLURM can't say."""
    try:
        return {run: jobs for run, jobs in live_among(runs).items() if jobs}
    except QueueError as error:
        raise InputError(
            f"can't tell whether jobs of the sweep are still running ({error}); try again when the "
            "cluster answers"
        ) from error


def _submit_idle(
    options: LaunchOptions,
    runs: Mapping[RunDir, Wanted],
    live: Mapping[RunDir, Sequence[QueuedJob]],
    console: Console,
) -> dict[RunDir, list[Submitted]]:
    """Submit the runs that aren't live, all or none; return the jobs of each.

    Jobs that prepare data are shared: those of the live runs, and of each run before.
    """
    shared: dict[str, list[Submitted]] = {}
    for run, jobs in live.items():
        ids = {job.job for job in jobs}
        own = [one for one in read_submitted(run) if one.job in ids]
        _share(shared, read_prepared(run), run, own)
    submitted: dict[RunDir, list[Submitted]] = {}
    try:
        for run, one in runs.items():
            if run in live:
                continue
            this_launch, prepared = open_files(options, one, run, console)
            known = shared.get(_data(prepared), ())
            submitted[run] = pipeline.submit_run(
                this_launch, one.plan, prepared, options.stages, known
            )
            _share(shared, prepared, run, submitted[run])
    except BaseException as error:
        withdraw(submitted, error)
        raise
    return submitted


def _share(
    shared: dict[str, list[Submitted]], prepared: Prepared, run: RunDir, jobs: Sequence[Submitted]
) -> None:
    """Note the jobs of a run that prepare data, for others with the same data."""
    own = [job for job in jobs if job.stage == "prepare" and not job.of]
    known = shared.setdefault(_data(prepared), [])
    known += [Submitted(**{**vars(job), "of": run.root.name}) for job in own]


def _data(prepared: Prepared) -> str:
    return repr((prepared.folder, prepared.num_shards))
