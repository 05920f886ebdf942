"""Row 12: EM and F1 of 10,000 questions, against the official algorithm run plainly.

    python benchmarks/em_f1.py [questions=10000] [runs=9]

The peer is a plain transcription of the official metrics, as everybody has it: lower case, drop
punctuation character by character, articles by a regular expression, split; F1 by a Counter of
tokens; the best over a question's references. For SQuAD 1.1 and 2.0 and CoQA (three further
references, one left out at a time, as its official script does). Questions have one to six words of
the bundled stories as answers, three references, and predictions that are right, near or wrong.
Figures must be equal to the last digit before any time is taken. Ours begins each call with an
empty cache of normalised texts. Milliseconds per call; ratio above 1: ours is faster; goal >= 3.
"""

from __future__ import annotations

import random
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from side_by_side import Row, compared, in_turn, run_script

Texts = Sequence[str]


def rows(questions: int = 10_000, runs: int = 9) -> Iterator[Row]:
    """Yield a row for each rule."""
    from qa_dist.text import metrics

    golds, predictions = make_questions(questions)
    coqa = {key: metrics.CoqaGold("mctest", tuple(texts)) for key, texts in golds.items()}

    def ours(rule: str) -> tuple[float, float]:
        metrics._cached_terms.cache_clear()
        if rule == "squad_v1":
            report = metrics.score_squad_v1(golds, predictions)
            return report["exact_match"], report["f1"]
        if rule == "squad_v2":
            report = metrics.score_squad_v2(golds, predictions)
            return report["exact"], report["f1"]
        overall = metrics.score_coqa(coqa, predictions, rounded=False)["overall"]
        return overall["em"], overall["f1"]

    plain: dict[str, Callable[[str, Texts], tuple[float, float]]]
    plain = {"squad_v1": plain_v1, "squad_v2": plain_v2, "coqa": plain_coqa}
    for rule, score in plain.items():

        def theirs(score: Callable[[str, Texts], tuple[float, float]] = score) -> object:
            return total(golds, predictions, score)

        def mine(rule: str = rule) -> object:
            return ours(rule)

        sums, found = total(golds, predictions, score), ours(rule)
        expected = tuple(100.0 * each / questions for each in sums)
        if rule == "coqa":  # as its script does
            expected = tuple(each / questions * 100 for each in sums)
        if expected != found:
            raise SystemExit(f"{rule}: expected {expected}, found {found}: not the same work")
        name = f"EM and F1 of {questions:,} questions, {rule}"
        seconds = in_turn(mine, theirs, runs)
        yield compared(name, seconds, ">= 3", unit="ms", scale=1000, libraries=())


def make_questions(count: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return references and predictions by question id."""
    import json

    from inputs import SAMPLE

    stories = json.loads((SAMPLE / "coqa-train.json").read_text())["data"]
    words = " ".join(story["story"] for story in stories).split()
    rng = random.Random(0)
    golds, predictions = {}, {}
    for number in range(count):
        at, length = rng.randrange(len(words) - 8), rng.randint(1, 6)
        texts = [" ".join(words[at : at + length + rng.randint(-1, 2)]) or "it" for _ in range(3)]
        golds[f"q{number}"] = texts
        shift = rng.choice((0, 0, 0, 1, 2, 500))
        first = (at + shift) % (len(words) - 8)
        predictions[f"q{number}"] = " ".join(words[first : first + length])
    return golds, predictions


def normalized(text: str) -> str:
    """As the official scripts: in this order, step by step."""
    text = text.lower()
    excluded = set(string.punctuation)
    text = "".join(character for character in text if character not in excluded)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def plain_f1(prediction: str, gold: str, both_empty: float) -> float:
    ours, theirs = normalized(prediction).split(), normalized(gold).split()
    if not ours or not theirs:
        return both_empty if ours == theirs else 0
    num_same = sum((Counter(ours) & Counter(theirs)).values())
    if num_same == 0:
        return 0
    precision, recall = 1.0 * num_same / len(ours), 1.0 * num_same / len(theirs)
    return (2 * precision * recall) / (precision + recall)


def plain_exact(prediction: str, gold: str) -> int:
    return int(normalized(prediction) == normalized(gold))


def plain_v1(prediction: str, golds: Texts) -> tuple[float, float]:
    exact = max(plain_exact(prediction, gold) for gold in golds)
    return exact, max(plain_f1(prediction, gold, 0) for gold in golds)


def plain_v2(prediction: str, golds: Texts) -> tuple[float, float]:
    golds = [gold for gold in golds if normalized(gold)] or [""]
    exact = max(plain_exact(prediction, gold) for gold in golds)
    return exact, max(plain_f1(prediction, gold, 1) for gold in golds)


def plain_coqa(prediction: str, golds: Texts) -> tuple[float, float]:
    exact = f1 = 0.0
    for left_out in range(len(golds)):
        others = [gold for i, gold in enumerate(golds) if i != left_out]
        exact += max(plain_exact(prediction, gold) for gold in others)
        f1 += max(plain_f1(prediction, gold, 1) for gold in others)
    return exact / len(golds), f1 / len(golds)


def total(
    golds: dict[str, list[str]],
    predictions: dict[str, str],
    score: Callable[[str, Texts], tuple[float, float]],
) -> tuple[float, ...]:
    """Return the sums of EM and of F1."""
    scores = [score(predictions[key], golds[key]) for key in golds]
    return tuple(sum(column) for column in zip(*scores, strict=True))


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
