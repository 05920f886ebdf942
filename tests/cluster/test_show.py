"""What a person sees: a bar in a terminal, plain lines elsewhere, tables that add up."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fabricated import fabricate
from rich.console import Console

from qa_dist.attempts import update_run
from qa_dist.cluster import show
from qa_dist.cluster.show import StageProgress, show_prepared, show_scores, show_submitted
from qa_dist.cluster.submitted import Submitted


def make_console(is_terminal: bool = False) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=is_terminal, width=120), stream


RUNNING = {0: {"state": "running", "step": 3, "of": 10, "unit": "steps"}}


def test_a_terminal_gets_a_bar() -> None:
    console, stream = make_console(is_terminal=True)
    progress = StageProgress(console, "train", 1)
    progress.update(RUNNING)
    progress.finish("done")
    text = stream.getvalue()
    assert "━" in text and "3/10" in text and "steps" in text and "\x1b[" in text


def test_a_log_gets_plain_lines() -> None:
    console, stream = make_console()
    progress = StageProgress(console, "prepare", 4)
    progress.update(RUNNING)
    progress.finish("done")
    first, last = stream.getvalue().splitlines()
    assert first == "prepare (4 elements) ..."
    assert last.startswith("prepare: done after 0.")
    assert "\x1b" not in stream.getvalue() and "━" not in stream.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = make_console()
    clock = [100.0]
    monkeypatch.setattr(show.time, "monotonic", lambda: clock[0])
    progress = StageProgress(console, "train", 1)
    for _ in range(30):  # a second each
        clock[0] += 1
        progress.update(RUNNING)
    assert stream.getvalue().splitlines()[1:] == [
        f"train: 3 of 10 steps, {seconds} s" for seconds in (10, 20, 30)
    ]


def test_elements_that_have_not_started_count_as_long_as_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console, stream = make_console()
    monkeypatch.setattr(show, "_PLAIN_EVERY_S", 0.0)
    progress = StageProgress(console, "prepare", 3)
    statuses: dict[int, dict[str, Any]] = {
        0: {"step": 10, "of": 10, "unit": "records"},
        1: {"step": 2, "of": 20, "unit": "records"},
        2: {"state": "waiting"},
    }
    progress.update(statuses)
    assert "prepare: 12 of 45 records" in stream.getvalue()


SUMMARY = {
    "examples": 1200,
    "windows": 1500,
    "tokens_mean": 101.4,
    "tokens_p95": 180,
    "tokens_max": 256,
    "bytes": 1_500_000,
    "ceiling_em": 97.5,
    "ceiling_f1": 98.25,
    "cut_questions": 7,
    "dropped": {"answer not in [context]": [2, ["a", "b"]], "start mended": [1, ["c"]]},
    "kept_reasons": ["start mended"],
    "without_answer": 4,
    "doubled_ids": 3,
}


def test_prepared_data_is_summed_up() -> None:
    console, stream = make_console()
    show_prepared(console, {"train": SUMMARY}, windows_per_s=50.0)
    text = " ".join(stream.getvalue().split())
    assert "1,200 examples, 1,500 windows; tokens" in text and "50 windows/s" in text
    assert "mean 101, 95 % under 180, longest 256; 1,000 bytes per window" in text
    assert "EM 97.5, F1 98.2" in text and "7 questions with history cut short" in text
    assert "dropped 2: answer not in [context] (first: a, b)" in text, "not taken for markup"
    assert "kept 1: start mended (first: c)" in text and "4 questions have no answer" in text
    assert "3 question ids occur more than once" in text


def test_nothing_prepared_divides_by_nothing() -> None:
    console, stream = make_console()
    show_prepared(console, {"dev": {**SUMMARY, "windows": 0, "dropped": {}}}, 0.0)
    assert "0 windows; tokens" in stream.getvalue()


def make_scores(**thresholds: float | None) -> dict[str, Any]:
    figures = {"em": 50.0, "em_low": 40.0, "em_high": 60.0, "f1": 61.26, "f1_low": 55.0}
    table = {
        name: {"threshold": value, **figures, "f1_high": 66.0} for name, value in thresholds.items()
    }
    return {
        "step": 8,
        "num_questions": 48,
        "num_groups": 26,
        "headline": "tuned" if "tuned" in thresholds else next(iter(thresholds)),
        "scores": table,
        "by": {"answer_type": {"yes": {"num_questions": 5, **figures, "f1_high": 66.0}}},
    }


def test_scores_are_a_table_with_intervals_and_a_mark_at_the_headline() -> None:
    console, stream = make_console()
    show_scores(console, make_scores(at_0=0.0, tuned=-1.25, oracle=2.5), "tiny")
    text = stream.getvalue()
    assert "tiny, step 8: 48 questions of 26 stories" in text
    assert "61.3 [55.0, 66.0]" in text and "50.0 [40.0, 60.0]" in text
    marked = [line for line in text.splitlines() if " * " in line]
    assert len(marked) == 1 and "all, threshold tuned (-1.25) *" in marked[0]
    assert "no-answer threshold 0" in text and "oracle (2.50)" in text
    assert "answer type: yes" in text and "upper bound" in text


def test_one_threshold_needs_no_mark() -> None:
    console, stream = make_console()
    show_scores(console, make_scores(always_answer=None), "tiny")
    assert " * " not in stream.getvalue() and "upper bound" not in stream.getvalue()
    assert "│ all " in stream.getvalue()


def make_entity_scores() -> dict[str, Any]:
    names = ("f1", "precision", "recall", "em", "accuracy")
    figures = {f"{n}{end}": 10.0 * k for k, n in enumerate(names) for end in ("", "_low", "_high")}
    return {
        "step": 8,
        "num_questions": 48,
        "num_groups": 26,
        "headline": "default",
        "scores": {"default": {**figures, "f1": 91.25}, "strict": {**figures, "f1": 89.5}},
        "by": {"entity_type": {"[LOC]": {"num_entities": 7, **figures, "f1": 77.7}}},
    }


def test_scores_of_tags_are_those_of_entities() -> None:
    console, stream = make_console()
    show_scores(console, make_entity_scores(), "tiny")
    text = stream.getvalue()
    assert "tiny, step 8: 48 sentences of 26 documents" in text
    assert "91.2 [0.0, 0.0]" in text and "89.5 [0.0, 0.0]" in text and "77.7 [0.0, 0.0]" in text
    assert "[LOC]" in text and "precision" in text and "all, strict" in text
    assert "Words tagged rightly: 40.0 [40.0, 40.0] %" in " ".join(text.split())


def test_several_sources_have_a_table_each() -> None:
    console, stream = make_console()
    sources = {"ner": make_entity_scores(), "squad": make_scores(at_0=0.0)}
    mean = {"mean": {"em": 40.0, "f1": 76.25}}
    show_scores(console, {"step": 9, "sources": sources, "scores": mean}, "tiny")
    text = stream.getvalue()
    assert "tiny, step 9, ner: 48 sentences" in text and "tiny, step 9, squad: 48 que" in text
    assert "mean of the sources: EM 40.0, F1 76.2" in text


def test_written_answers_are_shown_beside_the_base_and_the_floor() -> None:
    console, stream = make_console()
    scores = make_scores(always_answer=None)
    ((_, figures),) = scores["scores"].items()
    overlap = {f"keyword_overlap{end}": value for end, value in (("", 71.0), ("_low", 70.0))}
    for part in (figures, *scores["by"]["answer_type"].values()):
        part |= {**overlap, "keyword_overlap_high": 72.0}
    scores |= {"headline": "tuned", "scores": dict.fromkeys(("tuned", "base", "floor"), figures)}
    scores["compared"] = {"win": 31, "tie": 12, "loss": 5}
    show_scores(console, scores, "qlora")
    text = stream.getvalue()
    assert "keyword overlap" in text and text.count("71.0 [70.0, 72.0]") == 4
    assert "tuned *" in text and "base " in text and "floor " in text
    assert "tuned wins 31, ties 12, loses 5" in " ".join(text.split())
    assert "upper bound" not in text


def test_what_was_submitted_names_what_training_will_submit(tmp_path: Path) -> None:
    fake = fabricate(tmp_path)
    update_run(fake.run, stages=["train", "evaluate"])

    def shown(*stages: str) -> str:
        console, stream = make_console()
        jobs = [Submitted(stage, 7, [0], [], 1, False) for stage in stages]
        show_submitted(console, jobs, fake.run)
        return stream.getvalue()

    later = "evaluate: submitted by the training job at each checkpoint"
    assert later not in shown("train") and "train" in shown("train")
    fake.run.recipe.write_text("evaluation:\n  when: each_checkpoint\n")
    assert later in shown("prepare", "train") and later not in shown("evaluate")


def test_both_histories_and_the_gap_are_shown() -> None:
    figures = {"em": 50.0, "em_low": 45.0, "em_high": 55.0}
    figures |= {"f1": 60.0, "f1_low": 55.0, "f1_high": 65.0}
    own = {**figures, "f1": 52.5}
    gap = {"mean": 7.5, "low": 5.0, "high": 10.0, "p_value": 0.001}
    scores: dict[str, Any] = {
        **{"step": 8, "headline": "at_0", "num_questions": 9, "num_groups": 2, "partial": False},
        "scores": {"at_0": {"threshold": 0.0, **figures}},
        "by": {"turn": {"1": {"num_questions": 9, **figures}}},
        "own_history": {**own, "gap": {"em": gap, "f1": gap}, "by": {"turn": {"1": own}}},
    }
    console, stream = make_console()
    show_scores(console, scores, "coqa_bert")
    lines = stream.getvalue().splitlines()
    title = next(i for i, line in enumerate(lines) if "own answers as history" in line)
    cells = [[c.strip() for c in line.split("│")[1:-1]] for line in lines[title:] if "│" in line]
    both = ["50.0 [45.0, 55.0]", "52.5 [55.0, 65.0]", "60.0"]
    assert cells == [["all", *both, "7.5 [5.0, 10.0]"], ["turn: 1", *both, "7.5"]]
