"""Records that were dropped are counted, and the first ones named."""

from __future__ import annotations

from qa_dist.windowing import FIRST_IDS, Counts


def test_the_first_dropped_records_are_named_and_all_counted() -> None:
    counts = Counts()
    for number in range(FIRST_IDS + 3):
        counts.drop(f"q{number}", "no answer")
    counts.drop("other", "empty")
    assert counts.dropped["no answer"] == [FIRST_IDS + 3, [f"q{i}" for i in range(FIRST_IDS)]]
    assert counts.dropped["empty"] == [1, ["other"]]
    assert Counts().dropped == {}, "nothing is shared"
