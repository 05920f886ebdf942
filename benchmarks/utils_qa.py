"""The peer of n_best.py: logits to answers as utils_qa.py of transformers' question-answering
example finds them for SQuAD 2.0, step by step, in our own words.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

N_BEST, MAX_ANSWER = 20, 30
Answers = tuple[dict[str, str], dict[str, list[dict[str, Any]]], dict[str, float]]
"""By question id: final answer, n best, null odds."""


def postprocess(examples: Any, features: Any, all_starts: Any, all_ends: Any) -> Answers:
    """Return the answers as utils_qa finds them, in its order of steps."""
    number_of = {name: i for i, name in enumerate(examples["id"])}
    features_of: dict[int, list[int]] = defaultdict(list)
    for i, feature in enumerate(features):
        features_of[number_of[feature["example_id"]]].append(i)
    texts: OrderedDict[str, str] = OrderedDict()
    all_best: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()
    all_odds: OrderedDict[str, float] = OrderedDict()
    for number, example in enumerate(examples):
        null, found = None, []
        for i in features_of[number]:
            starts, ends = all_starts[i], all_ends[i]
            offsets = features[i]["offset_mapping"]
            is_widest = features[i].get("token_is_max_context", None)
            score = starts[0] + ends[0]
            if null is None or null["score"] > score:
                null = candidate((0, 0), starts[0], ends[0])
            found += pairs(starts, ends, offsets, is_widest)
        assert null is not None
        found.append(null)
        null_score = null["score"]
        best = sorted(found, key=lambda each: each["score"], reverse=True)[:N_BEST]
        if not any(each["offsets"] == (0, 0) for each in best):
            best.append(null)
        name = example["id"]
        all_best[name] = as_texts(best, example["context"])
        top = next((each for each in best if each["text"]), best[0])
        odds = null_score - top["start_logit"] - top["end_logit"]
        all_odds[name] = float(odds)
        texts[name] = "" if odds > 0 else top["text"]
    return texts, all_best, all_odds


def candidate(offsets: tuple[int, int], start: Any, end: Any) -> dict[str, Any]:
    """Return a span as utils_qa holds it."""
    return {"offsets": offsets, "score": start + end, "start_logit": start, "end_logit": end}


def pairs(starts: Any, ends: Any, offsets: Any, is_widest: Any) -> list[dict[str, Any]]:
    """Return a feature's spans among its best starts and ends."""
    import numpy as np

    best_starts = np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist()
    best_ends = np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist()
    found = []
    for start in best_starts:
        for end in best_ends:
            if (
                start >= len(offsets)
                or end >= len(offsets)
                or offsets[start] is None
                or len(offsets[start]) < 2
                or offsets[end] is None
                or len(offsets[end]) < 2
            ):
                continue
            if end < start or end - start + 1 > MAX_ANSWER:
                continue
            if is_widest is not None and not is_widest.get(str(start), False):
                continue
            place = (offsets[start][0], offsets[end][1])
            found.append(candidate(place, starts[start], ends[end]))
    return found


def as_texts(best: list[dict[str, Any]], context: str) -> list[dict[str, Any]]:
    """Cut a question's best spans as texts, give them probabilities, return them for JSON."""
    import numpy as np

    for each in best:
        first, end = each.pop("offsets")
        each["text"] = context[first:end]
    if not best or (len(best) == 1 and best[0]["text"] == ""):
        best.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "score": 0.0})
    scores = np.array([each.pop("score") for each in best])
    shares = np.exp(scores - np.max(scores))
    for each, share in zip(best, shares / shares.sum(), strict=True):
        each["probability"] = share
    is_number = (np.float16, np.float32, np.float64)
    return [
        {
            key: float(value) if isinstance(value, is_number) else value
            for key, value in each.items()
        }
        for each in best
    ]
