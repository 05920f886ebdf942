"""Exact match and F1 by the rules of SQuAD 1.1, SQuAD 2.0 and CoQA, as their official scripts do.

In: predictions and references as strings. Out: scores per question (0..1), the official reports
(percent). Pure functions: no torch, no files, no printing.
Equal to the last digit: sums run in the data's order, products in the official one, and what is an
int there is an int here, since from Python 3.12 on `sum()` rounds ints and floats differently.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

from qa_dist.records import InputError

Kind = Literal["squad_v1", "squad_v2", "coqa", "prompted"]
Key = TypeVar("Key", bound=Hashable)
DomainReport = dict[str, dict[str, float]]

# CoQA's sources, by the names that they have in the official report, in its order.
IN_DOMAIN = {
    "children_stories": "mctest",
    "literature": "gutenberg",
    "mid-high_school": "race",
    "news": "cnn",
    "wikipedia": "wikipedia",
}
OUT_DOMAIN = {"reddit": "reddit", "science": "science"}

_PUNCTUATION = string.punctuation.encode()  # of UTF-8 no other character has any of these bytes
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_MAX_CACHED_CHARS = 256  # longer answers are rare and would bloat the cache
_CACHED_TEXTS = 1 << 13  # references repeat near each other; 5 to 40 MB when full


class CoqaGold(NamedTuple):
    """One turn of a CoQA conversation: where its story is from ("mctest", ...), its references."""

    source: str
    references: tuple[str, ...]


class _Terms(NamedTuple):
    text: str  # normalised
    tokens: tuple[str, ...]
    unique: frozenset[str]


def normalize_answer(text: str) -> str:
    """Lower the case, drop ASCII punctuation and articles, leave one space between tokens."""
    return _terms(text).text


def answer_tokens(text: str) -> tuple[str, ...]:
    """Split an answer into its normalised tokens."""
    return _terms(text).tokens


def exact_match(prediction: str, answer: str) -> float:
    """Score 1 where both normalise to the same string, else 0."""
    return int(_terms(prediction).text == _terms(answer).text)


def token_f1(prediction: str, answer: str, both_empty: float = 1) -> float:
    """Score F1 over the multisets of normalised tokens, 0..1.

    both_empty: the score of two answers without tokens: 1 in SQuAD 2.0 and CoQA, 0 in SQuAD 1.1.
    Where only one of them has none it is 0 in all three.
    """
    return _best_score(_terms(prediction), [_terms(answer)], both_empty)[1]


def question_scores(kind: Kind, prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Score a prediction against all references of its question: (exact, F1), each 0..1.

    Each is its best over the references. SQuAD 2.0 drops references that normalise to nothing; if
    none is left, the empty string is right. CoQA with n > 1 references: for each i the best over
    the others, averaged over i. Raises InputError where SQuAD 1.1 or CoQA gets no reference.
    """
    ours = _terms(prediction)
    references = [_terms(answer) for answer in answers]
    if kind == "squad_v2":
        references = [terms for terms in references if terms.text] or [_terms("")]
    if not references:
        raise InputError(f"expected at least one reference answer in {kind}, found none")
    if kind != "coqa" or len(references) == 1:
        return _best_score(ours, references, 0 if kind == "squad_v1" else 1)
    rest = [references[:i] + references[i + 1 :] for i in range(len(references))]
    return _left_out_mean([(ours, others) for others in rest])


def score_squad_v1(
    golds: Mapping[Key, Sequence[str]], predictions: Mapping[Key, str]
) -> dict[str, float]:
    """Score a SQuAD 1.1 file: {"exact_match", "f1"} in percent; a missing prediction counts 0.

    golds: question id -> answers, in the data's order. Predictions for other ids are ignored.
    Raises InputError where there is no question, or one has no answer.
    """
    bare = [key for key, answers in golds.items() if not answers]
    if bare or not golds:
        found = f"{bare[0]!r} has none (is it task=squad_v2?)" if bare else "there is no question"
        raise InputError(f"expected answers to every question of SQuAD 1.1, but {found}")
    exact, f1 = _sums(_scores("squad_v1", golds, predictions).values())
    return {"exact_match": 100.0 * exact / len(golds), "f1": 100.0 * f1 / len(golds)}


def score_squad_v2(
    golds: Mapping[Key, Sequence[str]],
    predictions: Mapping[Key, str],
    null_scores: Mapping[Key, float] | None = None,
    null_threshold: float = 1.0,
) -> dict[str, float]:
    """Score a SQuAD 2.0 file in percent, with the keys of evaluate-v2.0.py in its order.

    golds: question id -> answers, in the data's order; none: unanswerable. Questions without
    prediction are left out of every figure. null_scores: question id -> a number, the higher the
    less we believe in our answer; above `null_threshold` it is taken back. They add the best
    thresholds and, where a question is answerable, the average precisions; equal scores are taken
    in the order of `null_scores`. Raises InputError where no question has a prediction, or a
    question has a prediction and no null score.
    """
    raw = _scores("squad_v2", golds, predictions)
    if not raw:
        raise InputError(f"none of the {len(golds)} questions has a prediction: do the ids match?")
    has_answer = {key: bool(golds[key]) for key in raw}
    odds: dict[Key, float] = dict.fromkeys(raw, 0.0)
    if null_scores is not None:
        bare = [key for key in raw if key not in null_scores]
        if bare:
            raise InputError(
                f"{len(bare)} predicted questions lack a null score: {bare[0]!r} first"
            )
        odds = {key: score for key, score in null_scores.items() if key in raw}
    final = {
        key: (float(not has_answer[key]),) * 2 if odds[key] > null_threshold else scores
        for key, scores in raw.items()
    }
    report: dict[str, float] = {}
    for prefix, kinds in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
        part = [final[key] for key in raw if has_answer[key] in kinds]
        if part:
            report[f"{prefix}exact"] = 100.0 * sum(exact for exact, _ in part) / len(part)
            report[f"{prefix}f1"] = 100.0 * sum(f1 for _, f1 in part) / len(part)
            report[f"{prefix}total"] = len(part)
    if null_scores is not None:
        ranked = sorted(odds, key=odds.__getitem__)
        found = {"exact": [raw[key][0] for key in ranked], "f1": [raw[key][1] for key in ranked]}
        sides = [(odds[key], has_answer[key], bool(predictions[key])) for key in ranked]
        report |= _threshold_report(found, sides)
    return report


def score_coqa(
    golds: Mapping[Key, CoqaGold], predictions: Mapping[Key, str] | None, rounded: bool = True
) -> DomainReport:
    """Score CoQA turns: {domain: {"em", "f1", "turns"}} in percent, as evaluate-v1.0.py reports.

    golds: any key of a turn, as (story id, turn id) -> source and references. predictions None:
    human performance, each reference against the others of its turn. A missing prediction counts 0,
    a domain without turns scores 0. rounded: to 0.1 as in the official report. Raises InputError
    for an unknown source, a turn without references, or with fewer than two for human performance.
    """
    if predictions is not None:
        references = {key: gold.references for key, gold in golds.items()}
        return _domain_report(golds, _scores("coqa", references, predictions), rounded)
    scores = {}
    for key, gold in golds.items():
        if len(gold.references) < 2:
            raise InputError(f"turn {key!r}: human performance needs at least two references")
        terms = [_terms(text) for text in gold.references]
        scores[key] = _left_out_mean([(t, terms[:i] + terms[i + 1 :]) for i, t in enumerate(terms)])
    return _domain_report(golds, scores, rounded)


def _normalized(text: str) -> _Terms:
    """Normalise by the rule.

    Where only word characters and white space are left, a word boundary is a token's end, so that
    articles go as whole tokens. The regular expression is for the rest: curly quotes, accents.
    """
    encoded = text.lower().encode("utf-8", "surrogatepass").translate(None, _PUNCTUATION)
    bare = encoded.decode("utf-8", "surrogatepass")
    tokens = bare.split()
    if "".join(tokens).isalnum():
        tokens = [token for token in tokens if token not in ("a", "an", "the")]
    else:
        tokens = _ARTICLE.sub(" ", bare).split()
    return _Terms(" ".join(tokens), tuple(tokens), frozenset(tokens))


_cached_terms = lru_cache(maxsize=_CACHED_TEXTS)(_normalized)


def _terms(text: str) -> _Terms:
    return _cached_terms(text) if len(text) <= _MAX_CACHED_CHARS else _normalized(text)


def _best_score(
    prediction: _Terms, references: Sequence[_Terms], both_empty: float
) -> tuple[float, float]:
    """Return the best exact match and the best F1 over the references."""
    best_f1: float = 0
    for reference in references:
        if reference.text == prediction.text:
            return 1, 1.0 if prediction.tokens else both_empty
        num_shared = len(prediction.unique & reference.unique)
        if num_shared:
            num_ours, num_theirs = len(prediction.tokens), len(reference.tokens)
            if len(prediction.unique) < num_ours and len(reference.unique) < num_theirs:
                # Only where both repeat a token can they share it more than once.
                num_shared = (Counter(prediction.tokens) & Counter(reference.tokens)).total()
            precision, recall = num_shared / num_ours, num_shared / num_theirs
            best_f1 = max(best_f1, (2 * precision * recall) / (precision + recall))
    return 0, best_f1


def _scores(
    kind: Kind, golds: Mapping[Key, Sequence[str]], predictions: Mapping[Key, str]
) -> dict[Key, tuple[float, float]]:
    shared = [key for key in golds if key in predictions]
    return {key: question_scores(kind, predictions[key], golds[key]) for key in shared}


def _sums(scores: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Add up one by one, as the official scripts do except for SQuAD 2.0's, which has `sum()`."""
    exact_sum = f1_sum = 0.0
    for exact, f1 in scores:
        exact_sum += exact
        f1_sum += f1
    return exact_sum, f1_sum


def _left_out_mean(rounds: Sequence[tuple[_Terms, Sequence[_Terms]]]) -> tuple[float, float]:
    """Return the mean of the best scores of each round: (what is scored, the references left)."""
    exact_sum, f1_sum = _sums(_best_score(ours, rest, 1) for ours, rest in rounds)
    return exact_sum / len(rounds), f1_sum / len(rounds)


def _threshold_report(
    scores: Mapping[str, Sequence[float]], sides: Sequence[tuple[float, bool, bool]]
) -> dict[str, float]:
    """Return best_* and pr_* of questions sorted by ascending null score.

    scores: "exact" and "f1" of each. sides: its null score, is answerable?, is our answer not ""?
    """
    report: dict[str, float] = {}
    total, num_answerable = len(sides), sum(has_answer for _, has_answer, _ in sides)
    for name, values in scores.items():
        current: float = total - num_answerable  # what answering nothing is worth
        best, threshold = current, 0.0
        for value, (odds, has_answer, is_answered) in zip(values, sides, strict=True):
            current += value if has_answer else -int(is_answered)
            if current > best:
                best, threshold = current, odds
        report |= {f"best_{name}": 100.0 * best / total, f"best_{name}_thresh": threshold}
    if num_answerable:
        for name, values in {**scores, "oracle": [1.0] * total}.items():
            found = last_recall = area = 0.0
            for i, (odds, has_answer, _) in enumerate(sides):
                found += values[i] if has_answer else 0
                if i + 1 == total or odds != sides[i + 1][0]:  # between equals no threshold can lie
                    recall = found / num_answerable
                    area += found / (i + 1) * (recall - last_recall)
                    last_recall = recall
            report[f"pr_{name}_ap"] = 100.0 * area
    return report


def _domain_report(
    golds: Mapping[Key, CoqaGold], scores: Mapping[Key, tuple[float, float]], rounded: bool
) -> DomainReport:
    turns: dict[str, list[tuple[float, float]]] = {s: [] for s in (IN_DOMAIN | OUT_DOMAIN).values()}
    for key, (source, _) in golds.items():
        if source not in turns:
            raise InputError(f"turn {key!r}: expected a source of {[*turns]}, found {source!r}")
        turns[source].append(scores.get(key, (0, 0)))
    rows = {
        name: (_sums(turns[source]), len(turns[source]))
        for name, source in (IN_DOMAIN | OUT_DOMAIN).items()
    }
    wholes = {
        "in_domain": IN_DOMAIN,
        "out_domain": OUT_DOMAIN,
        "overall": ("in_domain", "out_domain"),
    }
    for name, parts in wholes.items():
        sums, counts = zip(*(rows[part] for part in parts), strict=True)
        rows[name] = (_sums(sums), sum(counts))
    report: DomainReport = {}
    for name, (sums, num_turns) in rows.items():
        em, f1 = (value / max(1, num_turns) * 100 for value in sums)
        if rounded:
            em, f1 = round(em, 1), round(f1, 1)
        report[name] = {"em": em, "f1": f1, "turns": num_turns}
    return report
