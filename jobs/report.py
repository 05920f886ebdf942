"""Set runs side by side: scores with intervals, cost, learning curves, paired tests.

    python jobs/report.py compare coqa              a family: runs/coqa_*/, one run of each
    python jobs/report.py compare squad2_spanbert/main squad2_spanbert_crf/main
    python jobs/report.py compare squad2_spanbert/seeds squad2_spanbert_crf/seeds      sweeps
    python jobs/report.py compare ... --json                for programs
    python jobs/report.py compare ... markdown=FILE         also as a Markdown file

Of a family the run "main" of each recipe is taken, else the newest with scores (with the others of
its sweep, if that is over seeds alone). Otherwise the first run or sweep is what the others are
tested against, on the questions that both answered; a sweep stands for all seeds of each of its
settings. A training on several sources is tested against those on one alone, wherever it stands.
runs_dir=FOLDER says where runs are (default runs).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: its tensorboard.py is no package
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qa_dist.cluster.find_runs import read_words
from qa_dist.records import InputError

_RECIPES = Path(__file__).resolve().parent.parent / "configs" / "recipes"
_MOST_WORDS = 100


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 done, 2 bad input."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print((__doc__ or "").strip())
        return 0
    try:
        if argv[0] != "compare":
            raise InputError(f"{argv[0]}: no such report; there is: compare")
        markdown = [word.partition("=")[2] for word in argv if word.startswith("markdown=")]
        rest = [word for word in argv[1:] if not word.startswith("markdown=")]
        words, flags, runs_dir = read_words(rest, _MOST_WORDS, ("--json",))
        if not words:
            raise InputError("compare: give a family such as coqa, or runs; --help shows how")
        compare(words, runs_dir, "--json" in flags, Path(markdown[-1]) if markdown else None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(words: Sequence[str], runs_dir: Path, as_json: bool, markdown: Path | None) -> None:
    """Print the comparison of what is named."""
    from qa_dist.cluster.find_sides import find_sides
    from qa_dist.evaluation.compare import Side, compare_sides
    from qa_dist.evaluation.comparison_table import tables, to_markdown
    from qa_dist.evaluation.outcome import read_outcome

    named, is_family, notes = find_sides(words, runs_dir)
    sides = [Side(name, [read_outcome(run, _RECIPES) for run in runs]) for name, runs in named]
    pairs, without = ([], []) if is_family else compare_sides(named)
    notes += without
    rows = tables(sides, pairs)
    if markdown:
        _write(markdown, to_markdown(rows))
    if as_json:
        facts = {"sides": [asdict(s) for s in sides], "pairs": [asdict(p) for p in pairs]}
        print(json.dumps(facts, indent=2))
        return
    from qa_dist.cluster.show_comparison import show_tables

    show_tables(rows, notes)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"markdown={path}: can't be written ({error.strerror}); give another place"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
