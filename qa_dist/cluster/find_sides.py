"""Which runs a comparison is about: a family of recipes, or runs and sweeps by name.

In: words of jobs/report.py. Out: sides, each a name and its runs, that have scores; and what to say
of those that haven't.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qa_dist.cluster.find_runs import all_runs, find_run, find_sweep
from qa_dist.evaluation.outcome import run_label
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, SweepDir
from qa_dist.sweep import SEED, label, read_sweep, show, sweeps_of

_MAIN = "main"

NamedRuns = tuple[str, list[RunDir]]


def find_sides(words: Sequence[str], runs_dir: Path) -> tuple[list[NamedRuns], bool, list[str]]:
    """Return the sides, whether they are a family, and notes on what is left out.

    A family is one word that is no run and no sweep: the recipes whose name begins with it. Raises
    InputError.
    """
    notes: list[str] = []
    if len(words) == 1 and not find_sweep(words[0], runs_dir):
        family = _find_family(words[0], runs_dir, notes)
        if family:
            return family, True, notes
    sides: list[NamedRuns] = []
    for word in words:
        sweep = find_sweep(word, runs_dir)
        if sweep:
            sides += _sides_of_sweep(sweep, notes)
        else:
            run = find_run(word, runs_dir)
            sides.append((run_label(run), [run]))
    return sides, False, notes


def _find_family(word: str, runs_dir: Path, notes: list[str]) -> list[NamedRuns]:
    """Return a side for each recipe of a family: its run "main", else the newest that has scores,
    with the other seeds if it is of a sweep over these alone."""
    by_recipe: dict[str, list[RunDir]] = {}
    for run in all_runs(runs_dir):  # newest first
        recipe = run.root.parent.name
        if recipe == word or recipe.startswith(f"{word}_"):
            by_recipe.setdefault(recipe, []).append(run)
    found: list[NamedRuns] = []
    for recipe, runs in sorted(by_recipe.items()):
        scored = [run for run in runs if any(run.scores.glob("step-*.json"))]
        scored.sort(key=lambda run: run.root.name != _MAIN)
        if not scored:
            notes.append(f"{recipe}: no run has scores yet")
            continue
        name, taken = run_label(scored[0]), scored[:1]
        if scored[0].root.name != _MAIN:
            for sweep in _sweeps_over_seeds(scored[0]):
                name, taken = _sides_of_sweep(sweep, notes)[0]  # one setting
            others = len(scored) - len(taken)
            if others:
                rest = f"{others} other run{(others > 1) * 's'} with scores"
                notes.append(f"{recipe}: {rest}; {name} is taken, the newest")
        found.append((name, taken))
    if by_recipe and not found:
        raise InputError(
            f"{word}: {'; '.join(notes)}. `python jobs/status.py` says how far they are"
        )
    return found


def _sweeps_over_seeds(run: RunDir) -> list[SweepDir]:
    """Return the first sweep of a run that differs in seeds alone, or none."""
    sweeps = [(folder, read_sweep(folder)) for folder in sweeps_of(run)]
    return [folder for folder, facts in sweeps if facts and facts.keys == [SEED]][:1]


def _sides_of_sweep(sweep: SweepDir, notes: list[str]) -> list[NamedRuns]:
    """Return a side for each setting of a sweep: its seeds that have scores."""
    facts = read_sweep(sweep)
    name = f"{sweep.root.parent.name}/{sweep.name}"
    sides: dict[str, list[RunDir]] = {}
    missing = 0
    for member in facts.members if facts else ():
        values = {key: value for key, value in member.values.items() if key != SEED}
        setting = " ".join(f"{label(key)}={show(value)}" for key, value in values.items())
        run = sweep.run(member.name)
        if any(run.scores.glob("step-*.json")):
            sides.setdefault(f"{name} {setting}".strip(), []).append(run)
        else:
            missing += 1
    if not sides:
        raise InputError(f"{name}: none of its runs has scores yet; see jobs/status.py {name}")
    if missing:
        notes.append(f"{name}: {missing} of its runs have no scores yet, and are left out")
    return list(sides.items())
