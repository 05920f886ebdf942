"""The report shows each question, with what was expected and what both models said."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_answers import ROWS, make_row, score

from qa_dist.evaluation import text_report
from qa_dist.text.prompted_metrics import CAVEAT


def report_of(folder: Path) -> str:
    return (folder / "academic/main/report/step-00000004.md").read_text()


def test_each_question_is_shown_with_its_outcome(tmp_path: Path) -> None:
    score(tmp_path, ROWS)
    text = report_of(tmp_path)
    assert text.startswith("# academic/main, step-00000004\n")
    assert "wins 3, ties 0 and loses 1 (tie: at most 0.05 apart)" in text
    assert CAVEAT in text
    assert "floor (another question's expected answer)" in text
    assert "(1 questions, 1 of them refused)" in text
    q1 = text.partition("## q1\n")[2].partition("## q2\n")[0]
    assert "**Question:** q1?" in q1
    assert "**Expected:** Red balloons float upwards." in q1
    assert "**Base** (overlap 0.250): balloons" in q1
    assert "**Tuned** (overlap 0.750): Red balloons float" in q1
    assert "**win: tuned is closer**" in q1
    q2 = text.partition("## q2\n")[2].partition("## q3\n")[0]
    assert "**loss: base is closer**" in q2


def test_no_answer_can_change_how_the_report_reads(tmp_path: Path) -> None:
    bad = "# A title\n\n| cell | **bold** <b>x</b> [link](http://x)"
    score(tmp_path, [make_row("q1", "cat", bad, ""), make_row("q2", "cat", "x" * 9000, "y")])
    lines = report_of(tmp_path).splitlines()
    assert not any(line.startswith("# A") for line in lines)
    line = next(line for line in lines if "A title" in line)
    assert line.endswith(r"\# A title \| cell \| \*\*bold\*\* \<b\>x\</b\> \[link\](http://x)")
    assert "**Tuned** (overlap 0.000): (nothing)" in lines
    assert max(map(len, lines)) < 2100


def test_of_many_questions_some_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_report, "MOST_SHOWN", 3)
    score(tmp_path, [make_row(f"q{i}", "cat", "dog", "cat") for i in range(9)])
    text = report_of(tmp_path)
    shown = [line for line in text.splitlines() if line.startswith("## ")]
    assert shown == ["## q0", "## q3", "## q6"]
    assert "3 of 9 questions are shown, evenly spread" in text
    assert "9 questions." in text
