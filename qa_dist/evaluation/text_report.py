"""The report of one checkpoint of a language model, in Markdown: the figures, then each question
with what was expected, what base and tuned model answered, and which of them is closer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qa_dist.files import write_text
from qa_dist.run_dir import RunDir
from qa_dist.text.prompted_metrics import CAVEAT, outcome
from qa_dist.text.prompts import NO_ANSWER

MOST_SHOWN = 500
_MOST_CHARS = 2000
_COLUMNS = {
    "em": "EM",
    "f1": "token F1",
    "keyword_overlap": "keyword overlap",
    "refusal_accuracy": "refusal accuracy",
    "length_words": "words",
}
_NAMES = {
    "tuned": "tuned",
    "base": "base (the same model, adapter off)",
    "floor": "floor (another question's expected answer)",
}
_VERDICTS = {"win": "win: tuned is closer", "tie": "tie", "loss": "loss: base is closer"}


def write_report(
    folder: Path,
    prefix: str,
    dev: Sequence[Mapping[str, Any]],
    values: Mapping[str, Mapping[str, Sequence[float]]],
    scores: Mapping[str, Any],
    margin: float,
) -> None:
    """Write report/<prefix><step>.md of the run that `folder`, of a step's predictions, is in."""
    run = RunDir(folder.parents[1])
    lines = [f"# {run.root.parent.name}/{run.root.name}, {folder.name}", "", *_summary(scores)]
    shown = _spread(len(dev), MOST_SHOWN)
    if len(shown) < len(dev):
        lines += [
            f"{len(shown)} of {len(dev)} questions are shown, evenly spread; all of them are in "
            f"predictions/{folder.name}/.",
            "",
        ]
    for i in shown:
        overlaps = {name: of["keyword_overlap"][i] for name, of in values.items()}
        lines += _question(dev[i], overlaps, margin)
    write_text(run.report / f"{prefix}{folder.name}.md", "\n".join(lines))


def _summary(scores: Mapping[str, Any]) -> list[str]:
    """Return the table of figures and what is to be known to read it."""
    lines = [f"{scores['num_questions']} questions.", ""]
    if compared := scores.get("compared"):
        gain, low, high = (compared[f"keyword_overlap_gain{end}"] for end in ("", "_low", "_high"))
        lines += [
            f"By keyword overlap the tuned model wins {compared['win']}, ties {compared['tie']} "
            f"and loses {compared['loss']} (tie: at most {compared['tie_margin']:g} apart); gain "
            f"{gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, paired by question).",
            "",
        ]
    lines += [
        f"| | {' | '.join(_COLUMNS.values())} |",
        f"|---|{'---|' * len(_COLUMNS)}",
    ]
    for name, figures in scores["scores"].items():
        cells = [_cell(figures, column) for column in _COLUMNS]
        lines.append(f"| {_NAMES[name]} | {' | '.join(cells)} |")
    tuned = scores["scores"]["tuned"]
    lines += [
        "",
        f"EM, F1 and overlap in percent, with 95 % intervals. {CAVEAT} Refusal accuracy: refused "
        "where, and only where, the expected answer says that the text doesn't hold it "
        f"({tuned['refusals_expected']} questions, {tuned['refusals_found']} of them refused).",
        "",
    ]
    return lines


def _cell(figures: Mapping[str, Any], column: str) -> str:
    text = f"{figures[column]:.1f}"
    if f"{column}_low" in figures:
        text += f" ({figures[f'{column}_low']:.1f}-{figures[f'{column}_high']:.1f})"
    return text


def _question(row: Mapping[str, Any], overlaps: Mapping[str, float], margin: float) -> list[str]:
    lines = [f"## {_plain(row['id'])}", "", f"**Question:** {_plain(row['question'])}", ""]
    lines += [f"**Expected:** {_plain(' / '.join(dict.fromkeys(row['answers'])) or NO_ANSWER)}", ""]
    if "base" in overlaps:
        lines += [f"**Base** (overlap {overlaps['base']:.3f}): {_plain(row['base_text'])}", ""]
    lines += [f"**Tuned** (overlap {overlaps['tuned']:.3f}): {_plain(row['text'])}", ""]
    if "base" in overlaps:
        verdict = outcome(overlaps["base"], overlaps["tuned"], margin)
        lines += [f"**{_VERDICTS[verdict]}**", ""]
    return lines


def _plain(text: str) -> str:
    """Return a text on one line that Markdown shows as it is, and not at endless length."""
    line = " ".join(text.split())
    if len(line) > _MOST_CHARS:
        line = f"{line[:_MOST_CHARS]} ..."
    for character in "\\`*_[]<>#|":
        line = line.replace(character, f"\\{character}")
    return line or "(nothing)"


def _spread(num: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `num`, evenly spread."""
    return list(range(num)) if num <= most else [i * num // most for i in range(most)]
