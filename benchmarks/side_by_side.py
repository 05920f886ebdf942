"""What all benchmarks share: timing in turn, rows, and the command line of one script.

    python benchmarks/<row>.py [key=value ...] [--json]

A row compares ours with a peer's in one process or in processes started in turn: A B, then B A, so
that a machine's moods meet both; its figure is the median of the runs' own ratios. Where nobody
else does the same thing, `theirs` is None and the goal is for our own figure.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import operator
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_HOLDS = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    ours: float
    theirs: float | None
    """None: no peer."""
    ratio: float | None
    """Median of the runs' ratios; above 1 ours is faster, unless `note` says otherwise."""
    unit: str
    """Of `ours` and `theirs`."""
    goal: str
    """As ">= 10": what the ratio, or without a peer our figure, should be; empty: none."""
    runs: int
    quartiles: tuple[float, float] | None = None
    """Of the runs' ratios."""
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))
    """Mean number of running processes in the last minute."""

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        value = self.ours if self.ratio is None else self.ratio
        return bool(_HOLDS[sign](value, float(bound)))

    def as_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps({**asdict(self), "holds": self.holds})

    def as_line(self) -> str:
        """Return its line of a table in Markdown, whose head is HEADER."""
        cells = [
            self.name,
            f"{self.ours:g} {self.unit}",
            "" if self.theirs is None else f"{self.theirs:g} {self.unit}",
            "" if self.ratio is None else f"{self.ratio:g}",
            "" if self.quartiles is None else "{:g} to {:g}".format(*self.quartiles),
            self.goal,
            {True: "yes", False: "no", None: ""}[self.holds] + (self.note and f" ({self.note})"),
        ]
        return "| " + " | ".join(cells) + " |"


def in_turn(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    runs: int,
    calls: tuple[int, int] = (1, 1),
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Return the seconds per call of each run, ours and theirs; one run of each isn't counted.

    `calls`: how often a run calls each, so that both take about as long. `clock`: perf_counter, or
    one that waits for a device first. Neither side pays for the other's libraries, nor for what the
    benchmark itself has made: the collector of garbage passes over what is there by now.
    """
    gc.collect()
    gc.freeze()
    seconds: tuple[list[float], list[float]] = ([], [])
    turn = [(seconds[0], ours, calls[0]), (seconds[1], theirs, calls[1])]
    for _ in range(1 + runs):
        for values, do, count in turn:
            started = clock()
            for _ in range(count):
                do()
            values.append((clock() - started) / count)
        turn.reverse()
    return seconds[0][1:], seconds[1][1:]


def compared(
    name: str,
    seconds: tuple[Sequence[float], Sequence[float]],
    goal: str,
    *,
    work: float | None = None,
    unit: str = "s",
    scale: float = 1.0,
    is_ratio_of_times: bool = False,
    libraries: Sequence[str] = ("torch",),
    note: str = "",
) -> Row:
    """Return the row of seconds that were taken in turn.

    `work`: how much a call does; figures are then work per second in `unit`, otherwise seconds
    times `scale`. `is_ratio_of_times`: the ratio is our time by theirs (a cost), not theirs by
    ours (a speed-up). `libraries`: whose versions count.
    """
    mine, other = seconds
    ratios = [a / b if is_ratio_of_times else b / a for a, b in zip(mine, other, strict=True)]
    middle = statistics.median(ratios)
    low, high = middle, middle
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    figures = [statistics.median(each) for each in (mine, other)]
    ours, theirs = (work / x if work else x * scale for x in figures)
    return Row(
        name,
        _rounded(ours),
        _rounded(theirs),
        _rounded(middle),
        unit,
        goal,
        len(ratios),
        (_rounded(low), _rounded(high)),
        note,
        versions(libraries),
    )


def measured(
    name: str,
    value: float,
    unit: str,
    goal: str = "",
    *,
    runs: int = 1,
    libraries: Sequence[str] = (),
    note: str = "",
) -> Row:
    """Return the row of a figure of ours that nobody else's stands beside."""
    return Row(
        name, _rounded(value), None, None, unit, goal, runs, note=note, versions=versions(libraries)
    )


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return Python's and the libraries' versions."""
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def run_script(rows: Callable[..., Iterable[Row]], text: str | None) -> int:
    """Run one script: give `rows` the command line's key=value pairs (its own keywords, of their
    defaults' types), print each row as it comes; return the exit status.

    What the measured code itself prints goes to standard error. Processes that it starts find the
    bytecode of those before, as a user's do, also where the environment forbids to write any.
    """
    known = {name: each.default for name, each in inspect.signature(rows).parameters.items()}
    settings: dict[str, Any] = {}
    for word in sys.argv[1:]:
        key, _, value = word.partition("=")
        if word == "--json":
            continue
        if word in ("-h", "--help"):
            print(text)
            return 0
        try:
            settings[key] = type(known[key])(value)
            if isinstance(settings[key], (int, float)) and settings[key] <= 0:
                raise ValueError(value)
        except (KeyError, ValueError):
            expected = ", ".join(f"{name}={default}" for name, default in known.items())
            print(text, f"error: {word}: expected --json, {expected}", sep="\n", file=sys.stderr)
            return 2
    threads = settings.get("threads", known.get("threads"))
    if threads is not None:  # read when torch and numpy are loaded
        os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.path.insert(0, str(ROOT))
    is_json, output = "--json" in sys.argv, sys.stdout
    if not is_json:
        print(HEADER, flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        for row in rows(**settings):
            print(row.as_json() if is_json else row.as_line(), file=output, flush=True)
    return 0


HEADER = "| row | ours | theirs | ratio | quartiles | goal | holds |\n" + "|---" * 7 + "|"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
