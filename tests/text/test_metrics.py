"""Cases worked out by hand, and every fast path against a plain transcription of the rules.

The transcription (`plain_*`) follows the rules word for word and knows no cache, no shortcut.
"""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist.records import InputError
from qa_dist.text import metrics
from qa_dist.text.metrics import CoqaGold

ROOT = Path(__file__).resolve().parents[2]

# Pieces that meet every rule: articles, all kinds of white space, ASCII punctuation and what only
# looks like it, letters that change length in lower case, digits that are no decimals, controls.
PIECES = [
    *"aAnNtThHeExY019 _-.,!$'\"\t\n",
    *"\x00\x07\x1c\x1f\x85\xa0\u2003\u2028\u3000\u200b\ufeff\u0301\u0130\u212aß²½٣ａ中’‘“–—…。\ud800😀",
    *("a", "an", "the", "The", "AN", " the ", "th_e", "a.n", "’a", "a’", "cat", "cat ", "dog "),
]
texts = st.one_of(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.text(max_size=20))
# Few different strings, so that equal answers, equal tokens and empty ones are frequent.
few = st.lists(st.sampled_from(["a", "the ", "cat ", "dog ", "x", ".", " "]), max_size=5)
answer_texts = st.one_of(few.map("".join), texts)
odds_values = st.one_of(st.sampled_from([0, 1, 1.0, -3, 0.5]), st.floats(allow_nan=False))


def plain_normalize(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def plain_f1(prediction: str, answer: str, both_empty: int = 1) -> float:
    ours, theirs = plain_normalize(prediction).split(), plain_normalize(answer).split()
    if not ours or not theirs:
        return both_empty if ours == theirs else 0
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if shared == 0:
        return 0
    precision = shared / len(ours)
    recall = shared / len(theirs)
    return (2 * precision * recall) / (precision + recall)


def plain_scores(kind: str, prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    def best(references: Sequence[str], both_empty: int = 1) -> tuple[float, float]:
        return (
            max(int(plain_normalize(prediction) == plain_normalize(x)) for x in references),
            max(plain_f1(prediction, x, both_empty) for x in references),
        )

    if kind == "squad_v1":
        return best(answers, both_empty=0)
    if kind == "squad_v2":
        return best([x for x in answers if plain_normalize(x)] or [""])
    if len(answers) == 1:
        return best(answers)
    exact_sum = f1_sum = 0.0
    for i in range(len(answers)):
        exact, f1 = best([x for j, x in enumerate(answers) if j != i])
        exact_sum += exact
        f1_sum += f1
    return exact_sum / len(answers), f1_sum / len(answers)


def plain_squad_v2(
    golds: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    odds: Mapping[str, float],
    threshold: float,
) -> dict[str, float]:
    raw = {q: plain_scores("squad_v2", predictions[q], golds[q]) for q in golds}
    report: dict[str, float] = {}
    for prefix, questions in (
        ("", list(golds)),
        ("HasAns_", [q for q in golds if golds[q]]),
        ("NoAns_", [q for q in golds if not golds[q]]),
    ):
        if questions:
            for i, name in enumerate(("exact", "f1")):
                values = [
                    float(not golds[q]) if odds[q] > threshold else raw[q][i] for q in questions
                ]
                report[prefix + name] = 100.0 * sum(values) / len(questions)
            report[prefix + "total"] = len(questions)
    order = sorted(odds, key=lambda q: odds[q])
    for i, name in enumerate(("exact", "f1")):
        current: float = sum(1 for q in golds if not golds[q])
        best, best_at = current, 0.0
        for q in order:
            if golds[q]:
                current += raw[q][i]
            elif predictions[q]:
                current -= 1
            if current > best:
                best, best_at = current, odds[q]
        report[f"best_{name}"] = 100.0 * best / len(golds)
        report[f"best_{name}_thresh"] = best_at
    num_answerable = sum(1 for q in golds if golds[q])
    curves: dict[str, Callable[[str], float]] = {
        "exact": lambda q: raw[q][0],
        "f1": lambda q: raw[q][1],
        "oracle": lambda q: 1.0,
    }
    for name, value in curves.items() if num_answerable else ():
        found = area = 0.0
        recalls = [0.0]
        for i, q in enumerate(order):
            found += value(q) if golds[q] else 0.0
            if q == order[-1] or odds[q] != odds[order[i + 1]]:
                precision = found / (i + 1)
                recall = found / num_answerable
                area += precision * (recall - recalls[-1])
                recalls.append(recall)
        report[f"pr_{name}_ap"] = 100.0 * area
    return report


def as_text(report: object) -> str:
    """Show a report so that every digit, the order of keys, and int against float count."""
    return json.dumps(report)


# ---------------------------------------------------------------- one prediction, one answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("The the  AN a", ""),
        ("?!... -- $", ""),
        ("The Cat's-eye, a U.S. thing", "catseye us thing"),
        ("a_n the_", ""),  # punctuation goes first, and what is left is an article
        ("then another Athe", "then another athe"),
        ("an\u00a0apple\u3000pie\x1fx", "apple pie x"),
        ("‘the cat’ — a…", "‘ cat’ — …"),  # not ASCII: stays, and is a word boundary
        ("cafe\u0301 a\u0301", "cafe\u0301 \u0301"),  # a combining accent is no word character
        ("a\x00b", "\x00b"),
        ("a²", "a²"),  # a superscript digit is one
        ("İ", "i\u0307"),
        ("Ａ the中", "ａ the中"),
    ],
)
def test_normalization_by_hand(text: str, expected: str) -> None:
    assert metrics.normalize_answer(text) == expected
    assert metrics.answer_tokens(text) == tuple(expected.split())


@given(texts)
@settings(max_examples=500, deadline=None)
def test_normalization_equals_the_plain_rule(text: str) -> None:
    assert metrics.normalize_answer(text) == plain_normalize(text)
    assert metrics.answer_tokens(text) == tuple(plain_normalize(text).split())


def test_long_texts_are_not_kept_in_the_cache() -> None:
    before = metrics._cached_terms.cache_info().currsize
    assert metrics.normalize_answer("The Word " * 1000) == " ".join(["word"] * 1000)
    assert metrics._cached_terms.cache_info().currsize == before


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("the Cat", "cat.", 1, 1.0),
        ("black cat", "cat", 0, 2 / 3),
        ("dog", "cat", 0, 0),
        ("dog cat", "cat dog", 0, 1.0),
        ("cat cat cat", "cat cat dog", 0, 2 / 3),  # two shared, not one and not three
        ("cat cat cat", "cat", 0, 0.5),  # one shared: 1/3 and 1
        ("", "cat", 0, 0),
        ("cat", "the", 0, 0),
    ],
)
def test_one_answer_by_hand(prediction: str, answer: str, exact: float, f1: float) -> None:
    assert metrics.exact_match(prediction, answer) == exact
    for both_empty in (0, 1):
        assert metrics.token_f1(prediction, answer, both_empty) == pytest.approx(f1, abs=1e-15)
        assert metrics.token_f1(answer, prediction, both_empty) == pytest.approx(f1, abs=1e-15)


@pytest.mark.parametrize(("prediction", "answer"), [("", ""), ("the", "."), ("a", "an the")])
def test_two_empty_answers(prediction: str, answer: str) -> None:
    assert metrics.exact_match(prediction, answer) == 1
    assert metrics.token_f1(prediction, answer) == 1
    assert metrics.token_f1(prediction, answer, both_empty=0) == 0


@given(answer_texts, answer_texts, st.sampled_from([0, 1]))
@settings(max_examples=300, deadline=None)
def test_f1_equals_the_plain_rule(prediction: str, answer: str, both_empty: int) -> None:
    expected = plain_f1(prediction, answer, both_empty)
    assert metrics.token_f1(prediction, answer, both_empty) == expected


# ---------------------------------------------------------------- one question


def test_each_metric_has_its_own_best_reference() -> None:
    assert metrics.question_scores("squad_v1", "red cat", ["dog", "red", "Red cat!"]) == (1, 1)
    assert metrics.question_scores("squad_v1", "red cat", ["dog", "big red cat"]) == (0, 0.8)
    # "the" equals "a" (both empty), and shares no token with anything.
    assert metrics.question_scores("squad_v1", "the", ["cat", "a"]) == (1, 0)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("", [], (1, 1)),
        ("cat", [], (0, 0)),
        ("the", ["."], (1, 1)),  # the reference falls away: "" is right
        ("", ["the", "cat"], (0, 0)),  # only "cat" is left
        ("cat", ["the", "cat"], (1, 1)),
    ],
)
def test_squad_v2_drops_empty_references(
    prediction: str, answers: list[str], expected: tuple[float, float]
) -> None:
    assert metrics.question_scores("squad_v2", prediction, answers) == expected


def test_scores_that_are_ints_in_the_official_script_are_ints() -> None:
    # From Python 3.12 on, sum() adds an int to a float sum without the compensation that it gives
    # to a float: 1 and 1.0 can then differ in the last digit of a report.
    for prediction, answers in (("", []), ("cat", ["dog"]), ("the", [])):
        exact, f1 = metrics.question_scores("squad_v2", prediction, answers)
        assert (type(exact), type(f1)) == (int, int)
    assert type(metrics.question_scores("squad_v2", "cat", ["cat"])[1]) is float


def test_coqa_leaves_one_reference_out() -> None:
    assert metrics.question_scores("coqa", "cat", ["cat"]) == (1, 1)
    # Without "cat" the best is 0; without "dog" it is 1.
    assert metrics.question_scores("coqa", "cat", ["cat", "dog"]) == (0.5, 0.5)
    assert metrics.question_scores("coqa", "cat", ["cat", "cat", "dog"]) == (1, 1)
    # F1 2/3 with "red cat" only where it isn't left out: twice of three times.
    exact, f1 = metrics.question_scores("coqa", "cat", ["red cat", "dog", "bird"])
    assert exact == 0 and f1 == pytest.approx(4 / 9)
    assert metrics.question_scores("coqa", "", ["the", "cat"]) == (0.5, 0.5)


@pytest.mark.parametrize("kind", ["squad_v1", "coqa"])
def test_no_reference_is_an_error(kind: metrics.Kind) -> None:
    with pytest.raises(InputError, match=f"at least one reference answer in {kind}"):
        metrics.question_scores(kind, "cat", [])


@given(
    st.sampled_from(["squad_v1", "squad_v2", "coqa"]),
    answer_texts,
    st.lists(answer_texts, min_size=1, max_size=5),
)
@settings(max_examples=400, deadline=None)
def test_question_scores_equal_the_plain_rule(
    kind: metrics.Kind, prediction: str, answers: list[str]
) -> None:
    expected = plain_scores(kind, prediction, answers)
    assert metrics.question_scores(kind, prediction, answers) == expected


# ---------------------------------------------------------------- whole files: SQuAD 1.1


def test_squad_v1_by_hand() -> None:
    golds = {"1": ["cat"], "2": ["big dog", "dog"], "3": ["x"], "4": ["the"]}
    predictions = {"4": "", "1": "The cat.", "2": "big red dog", "extra": "x"}
    # EM: 1, 0, missing 0, 1. F1: 1, 0.8, missing 0, 0 (nothing shared).
    assert metrics.score_squad_v1(golds, predictions) == {"exact_match": 50.0, "f1": 45.0}
    assert metrics.score_squad_v1(golds, {}) == {"exact_match": 0.0, "f1": 0.0}


def test_squad_v1_without_answers_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no question"):
        metrics.score_squad_v1({}, {})
    with pytest.raises(InputError, match="'q2' has none"):
        metrics.score_squad_v1({"q1": ["x"], "q2": []}, {"q1": "x"})


@given(
    st.lists(st.tuples(answer_texts, st.lists(answer_texts, min_size=1, max_size=3)), min_size=1)
)
@settings(max_examples=100, deadline=None)
def test_squad_v1_adds_up_in_the_order_of_the_data(rows: list[tuple[str, list[str]]]) -> None:
    exact_sum = f1_sum = 0.0
    for prediction, answers in rows:
        exact, f1 = plain_scores("squad_v1", prediction, answers)
        exact_sum += exact
        f1_sum += f1
    report = metrics.score_squad_v1(
        {i: answers for i, (_, answers) in enumerate(rows)},
        {i: prediction for i, (prediction, _) in reversed(list(enumerate(rows)))},
    )
    expected = {"exact_match": 100.0 * exact_sum / len(rows), "f1": 100.0 * f1_sum / len(rows)}
    assert as_text(report) == as_text(expected)


# ---------------------------------------------------------------- whole files: SQuAD 2.0

V2_GOLDS: dict[str, list[str]] = {"a": ["cat"], "b": [], "c": ["dog"], "d": []}
V2_PREDICTIONS = {"a": "cat", "b": "bird", "c": "big dog", "d": ""}
V2_KEYS = ["exact", "f1", "total"]
V2_BEST = ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]
V2_CURVES = ["pr_exact_ap", "pr_f1_ap", "pr_oracle_ap"]


def test_squad_v2_by_hand() -> None:
    report = metrics.score_squad_v2(V2_GOLDS, V2_PREDICTIONS)
    assert list(report) == [f"{p}{k}" for p in ("", "HasAns_", "NoAns_") for k in V2_KEYS]
    assert report == {
        "exact": 50.0,
        "f1": pytest.approx(100 * (1 + 0 + 2 / 3 + 1) / 4),
        "total": 4,
        "HasAns_exact": 50.0,
        "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 2),
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }


def test_squad_v2_thresholds_by_hand() -> None:
    # Ascending: a +1 (3 of 4, the best), b answered in vain -1, c +0 or +2/3, d silent +0.
    null_scores = {"d": 3, "c": 0.0, "a": -5, "b": -2.0}
    report = metrics.score_squad_v2(V2_GOLDS, V2_PREDICTIONS, null_scores, -1.0)
    assert list(report)[-7:] == V2_BEST + V2_CURVES
    assert (report["exact"], report["f1"]) == (50.0, 50.0)  # c and d are not answered
    assert (report["HasAns_exact"], report["NoAns_exact"]) == (50.0, 50.0)
    assert [report[key] for key in V2_BEST] == [75.0, -5, 75.0, -5]
    assert type(report["best_exact_thresh"]) is int  # as it stood in the file
    # a: precision 1 over a half of the recall. c: F1 (1 + 2/3) / 3 over a third, oracle 2/3 over
    # a half.
    assert report["pr_exact_ap"] == 50.0
    assert report["pr_f1_ap"] == pytest.approx(100 * (1 / 2 + (5 / 9) * (1 / 3)))
    assert report["pr_oracle_ap"] == pytest.approx(100 * (1 / 2 + (2 / 3) * (1 / 2)))


def test_the_threshold_itself_still_answers() -> None:
    null_scores = {"a": 1.5}
    assert metrics.score_squad_v2({"a": ["x"]}, {"a": "x"}, null_scores, 1.5)["exact"] == 100.0
    assert metrics.score_squad_v2({"a": ["x"]}, {"a": "x"}, null_scores, 1.4999)["exact"] == 0.0
    assert metrics.score_squad_v2({"a": ["x"]}, {"a": "x"}, null_scores)["exact"] == 0.0  # 1.0
    assert metrics.score_squad_v2({"a": []}, {"a": "x"}, null_scores)["exact"] == 100.0


def test_equal_null_scores_are_scanned_in_their_own_order() -> None:
    golds: dict[str, list[str]] = {"right": ["x"], "vain": []}
    predictions = {"right": "x", "vain": "y"}
    first = metrics.score_squad_v2(golds, predictions, {"right": 2, "vain": 2.0}, 9)
    second = metrics.score_squad_v2(golds, predictions, {"vain": 2, "right": 2.0}, 9)
    assert (first["best_exact"], first["best_exact_thresh"]) == (100.0, 2)
    assert (second["best_exact"], second["best_exact_thresh"]) == (50.0, 0.0)
    # A precision needs a threshold, and none lies between equals: 1/2 for both orders.
    assert first["pr_exact_ap"] == second["pr_exact_ap"] == 50.0


def test_a_prediction_of_punctuation_counts_as_answered() -> None:
    golds: dict[str, list[str]] = {"n": [], "a": ["x"]}
    report = metrics.score_squad_v2(golds, {"n": ".", "a": "x"}, {"n": 0, "a": 1})
    assert report["exact"] == 100.0
    assert report["best_exact"] == 50.0  # -1 for ".", then +1: never above "answer nothing"


def test_infinite_and_extreme_null_scores() -> None:
    null_scores = {"a": -1e308, "b": float("inf"), "c": float("-inf"), "d": 10**400}
    report = metrics.score_squad_v2(V2_GOLDS, V2_PREDICTIONS, null_scores, 0.0)
    assert report["exact"] == 75.0
    assert (report["best_exact"], report["best_exact_thresh"]) == (75.0, -1e308)


@pytest.mark.parametrize("has_answer", [True, False])
def test_blocks_exist_only_for_questions_of_their_kind(has_answer: bool) -> None:
    golds = {"a": ["x"]} if has_answer else {"a": []}
    report = metrics.score_squad_v2(golds, {"a": "x"}, {"a": 0.5})
    block = "HasAns_" if has_answer else "NoAns_"
    curves = V2_CURVES if has_answer else []
    assert list(report) == V2_KEYS + [block + key for key in V2_KEYS] + V2_BEST + curves
    expected = (100.0, 0.5) if has_answer else (100.0, 0.0)
    assert (report["best_exact"], report["best_exact_thresh"]) == expected


def test_unpredicted_questions_are_left_out_of_everything() -> None:
    null_scores = {"d": 3, "x": -9, "c": 0.0, "a": -5}
    predictions = {"a": "cat", "c": "dog", "d": "", "x": "extra"}
    whole = {key: V2_GOLDS[key] for key in "acd"}
    report = metrics.score_squad_v2(V2_GOLDS, predictions, null_scores)
    assert report["total"] == 3
    assert report == metrics.score_squad_v2(whole, predictions, null_scores)
    assert report["best_exact"] == 100.0


def test_squad_v2_errors() -> None:
    with pytest.raises(InputError, match="none of the 4 questions has a prediction"):
        metrics.score_squad_v2(V2_GOLDS, {"x": "y"})
    with pytest.raises(InputError, match="2 predicted questions lack a null score: 'b' first"):
        metrics.score_squad_v2(V2_GOLDS, V2_PREDICTIONS, {"a": 0, "d": 1})


@st.composite
def squad_v2_files(
    draw: st.DrawFn,
) -> tuple[dict[str, list[str]], dict[str, str], dict[str, float]]:
    keys = [str(i) for i in range(draw(st.integers(1, 12)))]
    golds = {key: draw(st.lists(answer_texts, max_size=3)) for key in keys}
    predictions = {key: draw(answer_texts) for key in keys}
    null_scores = {key: draw(odds_values) for key in draw(st.permutations(keys))}
    return golds, predictions, null_scores


@given(squad_v2_files(), odds_values)
@settings(max_examples=150, deadline=None)
def test_squad_v2_equals_the_plain_rule(files: Any, threshold: float) -> None:
    golds, predictions, null_scores = files
    report = metrics.score_squad_v2(golds, predictions, null_scores, threshold)
    expected = plain_squad_v2(golds, predictions, null_scores, threshold)
    assert as_text(report) == as_text(expected)


@given(squad_v2_files())
@settings(max_examples=50, deadline=None)
def test_no_null_scores_means_that_all_are_zero(files: Any) -> None:
    golds, predictions, _ = files
    expected = plain_squad_v2(golds, predictions, dict.fromkeys(golds, 0.0), 1.0)
    report = metrics.score_squad_v2(golds, predictions)
    kept = {key: v for key, v in expected.items() if not key.startswith(("best_", "pr_"))}
    assert as_text(report) == as_text(kept)


# ---------------------------------------------------------------- whole files: CoQA

DOMAINS = ["children_stories", "literature", "mid-high_school", "news", "wikipedia"]


def test_coqa_by_hand() -> None:
    golds = {
        ("s1", 1): CoqaGold("mctest", ("cat", "dog")),  # 1/2
        ("s1", 2): CoqaGold("mctest", ("yes",)),  # missing
        ("s2", 1): CoqaGold("cnn", ("red cat", "red cat")),  # EM 0, F1 2/3
        ("s3", 1): CoqaGold("science", ("yes", "Yes.", "no")),  # 1: "yes" is left out once only
    }
    predictions = {("s3", 1): "yes", ("s1", 1): "cat", ("s2", 1): "cat", ("s9", 1): "extra"}
    report = metrics.score_coqa(golds, predictions)
    assert list(report) == [*DOMAINS, "reddit", "science", "in_domain", "out_domain", "overall"]
    assert report["children_stories"] == {"em": 25.0, "f1": 25.0, "turns": 2}
    assert report["news"] == {"em": 0.0, "f1": 66.7, "turns": 1}
    assert report["reddit"] == report["literature"] == {"em": 0.0, "f1": 0.0, "turns": 0}
    assert report["in_domain"] == {"em": 16.7, "f1": 38.9, "turns": 3}
    assert report["science"] == report["out_domain"] == {"em": 100.0, "f1": 100.0, "turns": 1}
    assert report["overall"] == {"em": 37.5, "f1": 54.2, "turns": 4}
    unrounded = metrics.score_coqa(golds, predictions, rounded=False)
    assert unrounded["news"]["f1"] == pytest.approx(200 / 3, abs=1e-12)
    assert unrounded["overall"]["f1"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 1) / 4, abs=1e-12)


def test_coqa_sources_go_to_their_domains() -> None:
    sources = ["mctest", "gutenberg", "race", "cnn", "wikipedia", "reddit", "science"]
    for source, domain in zip(sources, [*DOMAINS, "reddit", "science"], strict=True):
        report = metrics.score_coqa({1: CoqaGold(source, ("x",))}, {1: "x"})
        side = "out_domain" if domain in ("reddit", "science") else "in_domain"
        assert {name for name, row in report.items() if row["turns"]} == {domain, side, "overall"}


def test_coqa_human_by_hand() -> None:
    # cat-cat-dog: 1, 1, 0. x-y: 0, 0.
    golds = {1: CoqaGold("race", ("cat", "the cat", "dog")), 2: CoqaGold("race", ("x", "y"))}
    report = metrics.score_coqa(golds, None)
    assert report["mid-high_school"] == {"em": 33.3, "f1": 33.3, "turns": 2}
    with pytest.raises(InputError, match="turn 2: human performance needs at least two"):
        metrics.score_coqa({1: golds[1], 2: CoqaGold("race", ("x",))}, None)


def test_coqa_unknown_source_is_an_error() -> None:
    with pytest.raises(InputError, match=r"turn 7: expected a source of .*'mctest'.*found 'web'"):
        metrics.score_coqa({7: CoqaGold("web", ("x",))}, {7: "x"})


coqa_turns = st.lists(
    st.tuples(
        st.sampled_from(["mctest", "cnn", "wikipedia", "reddit", "science"]),
        st.lists(answer_texts, min_size=2, max_size=4),
        st.one_of(st.none(), answer_texts),
    ),
    min_size=1,
    max_size=12,
)


@given(coqa_turns)
@settings(max_examples=100, deadline=None)
def test_coqa_equals_the_plain_rule(turns: list[tuple[str, list[str], str | None]]) -> None:
    golds = {i: CoqaGold(source, tuple(texts)) for i, (source, texts, _) in enumerate(turns)}
    predictions = {i: text for i, (_, _, text) in enumerate(turns) if text is not None}
    sums = {source: [0.0, 0.0, 0] for source in ("mctest", "cnn", "wikipedia", "reddit", "science")}
    human = 0.0
    for source, references, text in turns:
        exact, f1 = (0, 0) if text is None else plain_scores("coqa", text, references)
        sums[source] = [a + b for a, b in zip(sums[source], (exact, f1, 1), strict=True)]
        for i, reference in enumerate(references):
            rest = [other for j, other in enumerate(references) if j != i]
            human += max(plain_f1(reference, other) for other in rest) / len(references)
    inside = [sums["mctest"][k] + sums["cnn"][k] + sums["wikipedia"][k] for k in range(3)]
    outside = [sums["reddit"][k] + sums["science"][k] for k in range(3)]
    report = metrics.score_coqa(golds, predictions, rounded=False)
    rounded = metrics.score_coqa(golds, predictions)
    for name, (em, f1, turn_count) in (
        ("news", sums["cnn"]),
        ("in_domain", inside),
        ("out_domain", outside),
        ("overall", [a + b for a, b in zip(inside, outside, strict=True)]),
    ):
        count = max(1, turn_count)
        expected = {"em": em / count * 100, "f1": f1 / count * 100, "turns": turn_count}
        assert as_text(report[name]) == as_text(expected)
        expected |= {"em": round(em / count * 100, 1), "f1": round(f1 / count * 100, 1)}
        assert as_text(rounded[name]) == as_text(expected)
    overall = metrics.score_coqa(golds, None, rounded=False)["overall"]["f1"]
    assert overall == pytest.approx(100 * human / len(turns), abs=1e-9)


# ---------------------------------------------------------------- cost, real data


def test_importing_the_metrics_loads_no_heavy_module() -> None:
    code = "import sys, qa_dist.text.metrics; print({'numpy', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("name", ["dev-v1.1.json", "dev-v2.0.json"])
def test_real_references_equal_the_plain_rule(name: str) -> None:
    folder = os.environ.get("QA_DIST_TEST_DATA")
    if not folder:
        pytest.skip("QA_DIST_TEST_DATA is not set: no real data")
    data = json.loads((Path(folder) / "data" / "squad" / name).read_text(encoding="utf-8"))["data"]
    questions = [q for article in data for p in article["paragraphs"] for q in p["qas"]]
    answers = [[answer["text"] for answer in q["answers"]] for q in questions]
    golds = {str(i): texts for i, texts in enumerate(answers[::5])}
    others = ["", *((texts or ["x y"])[-1] for texts in answers[::5])]
    predictions = {  # partly right: another question's answer before the right one
        key: f"The {other} {(texts or [''])[0]}"
        for (key, texts), other in zip(golds.items(), others, strict=False)
    }
    odds = {key: len(text) / 7 - 3 for key, text in predictions.items()}
    report = metrics.score_squad_v2(golds, predictions, odds, 0.5)
    assert as_text(report) == as_text(plain_squad_v2(golds, predictions, odds, 0.5))
    assert 0 < report["HasAns_f1"] < 100
