"""Dev questions in the training data: all that are there, and no others."""

from __future__ import annotations

import random
import time

from qa_dist.text.contamination import NEAR, Pair
from qa_dist.text.contamination import find_near as find_near_pairs
from qa_dist.text.contamination import find_same as find_same_pairs
from qa_dist.text.metrics import answer_tokens, normalize_answer


def find_same(train: dict[str, str], dev: dict[str, str]) -> list[Pair]:
    return find_same_pairs(list(train.items()), list(dev.items()))


def find_near(train: dict[str, str], dev: dict[str, str], least: float = NEAR) -> list[Pair]:
    return find_near_pairs(list(train.items()), list(dev.items()), least)


def test_same_questions_whatever_case_punctuation_and_articles():
    train = {"t1": "Does the drug work?", "t2": "does drug  work", "t3": "Does a drug fail?"}
    dev = {"d1": "Does a Drug work??", "d2": "Why?"}
    assert [(p.dev_id, p.train_id) for p in find_same(train, dev)] == [("d1", "t1"), ("d1", "t2")]
    assert find_same({"t3": train["t3"]}, dev) == []


def test_near_questions_and_no_same_ones():
    dev = {"d": "Is aspirin of any use after surgery in older women with diabetes?"}
    train = {
        "same": "Is aspirin of any use after surgery in older women with diabetes",
        "near": "Is aspirin of any use after surgery in older men with diabetes?",
        "order": "With diabetes, is aspirin of any use in older women after surgery?",
        "far": "Is surgery of any use in older women?",
    }
    found = find_near(train, dev)
    assert [p.train_id for p in found] == ["order", "near"]
    assert found[0].similarity == 1.0
    assert NEAR <= found[1].similarity < 1


def test_near_finds_what_comparing_all_with_all_finds():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(7)]
    texts = {str(i): " ".join(draw.choices(words, k=draw.randint(0, 9))) for i in range(300)}
    train = {i: t for i, t in texts.items() if int(i) % 2}
    dev = {i: t for i, t in texts.items() if not int(i) % 2}
    sets = {i: set(answer_tokens(t)) for i, t in texts.items()}
    for least in (0.5, 0.8, 1.0):
        expected = {
            (d, t)
            for d in dev
            for t in train
            if normalize_answer(dev[d]) != normalize_answer(train[t])
            and sets[d] | sets[t]
            and len(sets[d] & sets[t]) >= least * len(sets[d] | sets[t])
        }
        found = {(p.dev_id, p.train_id) for p in find_near(train, dev, least)}
        assert found == expected
        assert expected


def test_near_is_fast_where_all_questions_begin_alike():
    draw = random.Random(0)
    texts = {
        str(i): "What is the effect of " + " ".join(f"w{draw.randrange(5000)}" for _ in range(6))
        for i in range(20_000)
    }
    started = time.process_time()
    find_near(texts, dict(list(texts.items())[:2000]))
    assert time.process_time() - started < 10  # all with all would take minutes


def test_questions_of_one_id_are_each_compared():
    dev = [("d", "Why is the sky so very blue?"), ("d", "Who sat?")]
    train = [("t", "who sat"), ("t", "Why is a sky blue, so very?"), ("t", "who sat?")]
    assert [pair.train_number for pair in find_same_pairs(train, dev)] == [0, 2]
    near = find_near_pairs(train, dev)
    assert [(pair.dev_id, pair.train_id, pair.train_number) for pair in near] == [("d", "t", 1)]
