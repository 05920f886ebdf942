"""Tags become entities as in seqeval, whose figures ours equal; IOB1 becomes IOB2."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist.text.tags import (
    Entity,
    Rates,
    Tally,
    all_types,
    count_sentence,
    find_entities,
    find_strict_entities,
    is_tag,
    label_names,
    rates,
    sum_tallies,
    to_iob2,
)

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b")
sentences = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=9),
    min_size=1,
    max_size=5,
)


def words(text: str) -> list[str]:
    return text.split()


# --- Forms ---


@pytest.mark.parametrize("tag", ["O", "B-PER", "I-PER", "B-a-b", "I-地名", "B--"])
def test_tags(tag):
    assert is_tag(tag)


@pytest.mark.parametrize(
    "tag",
    ["", "o", "0", "PER", "B", "B-", "I-", "X-PER", "E-PER", "b-PER", "B_PER", "B-a b", "B- "],
)
def test_what_is_no_tag(tag):
    assert not is_tag(tag)


@pytest.mark.parametrize(
    "iob1, iob2",
    [
        ("I-PER I-PER O I-PER", "B-PER I-PER O B-PER"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),
        ("O O", "O O"),
        ("", ""),
        ("B-PER I-PER B-PER O B-LOC", "B-PER I-PER B-PER O B-LOC"),
    ],
)
def test_iob1_becomes_iob2(iob1, iob2):
    assert to_iob2(words(iob1)) == tuple(words(iob2))


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_iob2_stays_as_it_is(tags):
    once = to_iob2(tags)
    assert to_iob2(once) == once
    assert find_entities(once) == find_strict_entities(once) == find_entities(tags)


def test_the_two_readings_differ():
    tags = words("B-PER I-PER I-LOC O I-PER")
    assert find_entities(tags) == [
        Entity("PER", 0, 1),
        Entity("LOC", 2, 2),
        Entity("PER", 4, 4),
    ]
    assert find_strict_entities(tags) == [Entity("PER", 0, 1)]
    # a type that goes on after it was broken off isn't the same entity
    assert find_strict_entities(words("B-PER I-LOC I-PER")) == [Entity("PER", 0, 0)]


def test_labels_of_conll_2003_are_in_their_usual_order():
    expected = "O B-PER I-PER B-ORG I-ORG B-LOC I-LOC B-MISC I-MISC"
    assert label_names(["MISC", "LOC", "PER", "ORG"]) == words(expected)
    assert label_names(["z", "LOC", "a", "LOC"]) == words("O B-LOC I-LOC B-a I-a B-z I-z")
    assert label_names([]) == ["O"]


# --- Scores ---


def test_a_sentence_by_hand():
    gold = words("B-PER I-PER O B-LOC O")
    predicted = words("B-PER I-PER O I-LOC B-PER")
    counts = count_sentence(gold, predicted)
    assert counts.default == {"LOC": Tally(1, 1, 1), "PER": Tally(1, 2, 1)}
    assert counts.strict == {"LOC": Tally(0, 0, 1), "PER": Tally(1, 2, 1)}
    assert (counts.words, counts.right_words) == (5, 3)
    assert rates(all_types(counts.default)) == Rates(2 / 3, 1.0, 0.8)
    assert rates(all_types(counts.strict)) == Rates(0.5, 0.5, 0.5)


def test_nothing_there_scores_nothing():
    assert rates(Tally(0, 0, 0)) == rates(Tally(0, 0, 5)) == rates(Tally(0, 5, 0)) == (0, 0, 0)


def test_uneven_sentences_are_refused():
    with pytest.raises(ValueError, match="zip"):
        count_sentence(["O"], [])


@settings(max_examples=300, deadline=None)
@given(sentences)
def test_sums_equal_seqeval(pairs):
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval isn't installed")
    iob2 = pytest.importorskip("seqeval.scheme").IOB2
    gold = [[a for a, _ in sentence] for sentence in pairs]
    predicted = [[b for _, b in sentence] for sentence in pairs]
    counts = [count_sentence(*both) for both in zip(gold, predicted, strict=True)]
    for ours, mode in (
        (sum_tallies(c.default for c in counts), {}),
        (sum_tallies(c.strict for c in counts), {"mode": "strict", "scheme": iob2}),
    ):
        if not ours and mode:  # seqeval itself fails on sentences without any entity
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = metrics.classification_report(gold, predicted, output_dict=True, **mode)
            f1 = metrics.f1_score(gold, predicted, **mode)
        micro = report.pop("micro avg")
        assert rates(all_types(ours)) == (micro["precision"], micro["recall"], micro["f1-score"])
        assert rates(all_types(ours)).f1 == f1
        assert all_types(ours).gold == micro["support"]
        for name in ("macro avg", "weighted avg"):
            report.pop(name)
        assert {k: (*rates(v), v.gold) for k, v in ours.items()} == {
            k: (v["precision"], v["recall"], v["f1-score"], v["support"]) for k, v in report.items()
        }
    accuracy = sum(c.right_words for c in counts) / sum(c.words for c in counts)
    assert accuracy == metrics.accuracy_score(gold, predicted)
