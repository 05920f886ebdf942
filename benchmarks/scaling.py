"""How time and memory of the four stages grow with the data: 1x, 10x, 100x of the questions.

    python benchmarks/scaling.py [questions=200] [times=3] [epochs=1] [svg=docs/scaling.svg]

Made-up questions of SQuAD's size (inputs.py), as many for training as for scoring, go through
`jobs/launch.py profile=debug stages=...`, stage by stage, each in a process of its own, with an
encoder of 2 layers and 32 units, so that what isn't the model is seen. Prints a Markdown table:
each stage's seconds without those of a start (taken at 20 questions), microseconds per question,
its peak resident memory, and the exponent of its growth from 10x to 100x (1: in proportion); writes
the same as a picture. No peer: the goal is that no exponent is above 1.1, and that memory doesn't
grow with the data.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import inputs
from side_by_side import ROOT

STAGES = ("prepare", "train", "evaluate", "aggregate")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
START_QUESTIONS = 20
Measure = tuple[float, float]
"""Seconds, peak resident memory in MB."""


def main(words: Sequence[str]) -> int:
    """Measure, print the table, write the picture; return 0."""
    keys = {"questions": "200", "times": "3", "epochs": "1", "svg": str(ROOT / "docs/scaling.svg")}
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    given = dict(word.partition("=")[::2] for word in words)
    if unknown := set(given) - set(keys):
        print(f"error: {', '.join(sorted(unknown))}: expected some of {', '.join(keys)}")
        return 2
    keys |= given
    sizes = [int(keys["questions"]) * 10**power for power in range(int(keys["times"]))]
    found: dict[str, dict[int, Measure]] = {stage: {} for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for size in [START_QUESTIONS, *sizes]:
            for stage, measure in stages(Path(folder), size, keys["epochs"]):
                found[stage][size] = measure
                print(f"{stage}: {size} questions, {measure[0]:.2f} s", file=sys.stderr, flush=True)
    print(*table(found, sizes), sep="\n")
    Path(keys["svg"]).write_text("\n".join(picture(found, sizes)) + "\n", encoding="utf-8")
    print(f"written to {keys['svg']}")
    return 0


def stages(folder: Path, num_questions: int, epochs: str) -> Iterator[tuple[str, Measure]]:
    """Run each stage in a process of its own; yield its name and what it took."""
    folder = folder / str(num_questions)
    folder.mkdir()
    for name, seed in (("train", 0), ("dev", 1)):
        articles = inputs.made_articles(num_questions, seed)
        (folder / f"{name}.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    encoder = inputs.encoder(folder / "encoder", "tiny")
    command = [
        *(sys.executable, str(ROOT / "jobs/launch.py"), "recipe=squad1_bert", "profile=debug"),
        *(f"model.name={encoder}", "sources.0.train=train.json", "sources.0.dev=dev.json"),
        *("sources.0.max_train_examples=0", "sources.0.max_dev_examples=0"),
        *("data.num_shards=0", "train.max_steps=0", f"train.epochs={epochs}"),
        *("train.checkpoint_every_steps=100000", "train.log_every_steps=1000"),
        *("train.min_micro_batches_per_step=1", "evaluation.num_resamples=1000"),
    ]
    for stage in STAGES:
        yield stage, measured([*command, f"stages={stage}"], folder)


def measured(command: Sequence[str], folder: Path) -> Measure:
    """Return what a process took; its children count."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", WATCH, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said, error = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{said}\n{error}")
    return seconds, int(said.split()[-1]) / 1024


WATCH = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def table(found: dict[str, dict[int, Measure]], sizes: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| stage | start | " + " | ".join(f"{n:,} questions" for n in sizes) + " | exponent |"
    yield "|---" * (3 + len(sizes)) + "|"
    for stage, measures in found.items():
        cells = [
            f"{seconds:.1f} s, {1e6 * seconds / size:,.0f} us each, {measures[size][1]:,.0f} MB"
            for size, seconds in work(measures, sizes)
        ]
        start = measures[START_QUESTIONS]
        line = [stage, f"{start[0]:.1f} s", *cells, f"{exponent(measures, sizes):.2f}"]
        yield "| " + " | ".join(line) + " |"


def work(measures: dict[int, Measure], sizes: Sequence[int]) -> list[tuple[int, float]]:
    """Return (size, seconds without a start's) of each size."""
    start = measures[START_QUESTIONS][0]
    return [(size, max(1e-3, measures[size][0] - start)) for size in sizes]


def exponent(measures: dict[int, Measure], sizes: Sequence[int]) -> float:
    """Return the exponent of growth between the two largest sizes."""
    (_, a), (_, b) = work(measures, sizes)[-2:]
    return math.log10(b / a)


def picture(found: dict[str, dict[int, Measure]], sizes: Sequence[int]) -> Iterator[str]:
    """Yield the lines of an SVG: seconds over questions, both logarithmic, one line per stage."""
    points = {stage: work(measures, sizes) for stage, measures in found.items()}
    every = [seconds for line in points.values() for _, seconds in line]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    decades = round(math.log10(sizes[-1] / sizes[0]))

    def x(size: float) -> float:
        return 70 + 420 * math.log10(size / sizes[0]) / decades

    def y(seconds: float) -> float:
        return 330 - 300 * (math.log10(seconds) - low) / (high - low)

    yield '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 380" font-family="sans-serif" '
    yield 'font-size="13"><rect width="600" height="380" fill="white"/>'
    for power in range(low, high + 1):
        at = y(10**power)
        yield f'<path d="M70 {at:.0f}H490" stroke="#ddd"/>'
        yield f'<text x="62" y="{at + 4:.0f}" text-anchor="end">{10.0**power:g} s</text>'
    for size in sizes:
        yield f'<path d="M{x(size):.0f} 30V330" stroke="#ddd"/>'
        yield f'<text x="{x(size):.0f}" y="350" text-anchor="middle">{size:,}</text>'
    yield '<text x="280" y="372" text-anchor="middle">questions</text>'
    used: list[float] = []
    for (stage, line), colour in zip(points.items(), COLOURS, strict=True):
        path = " ".join(f"{x(size):.1f},{y(seconds):.1f}" for size, seconds in line)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for size, seconds in line:
            yield f'<circle cx="{x(size):.1f}" cy="{y(seconds):.1f}" r="3" fill="{colour}"/>'
        at = y(line[-1][1])
        while any(abs(at - other) < 15 for other in used):
            at += 15
        used.append(at)
        yield f'<text x="498" y="{at + 4:.0f}" fill="{colour}">{stage}</text>'
    yield "</svg>"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
