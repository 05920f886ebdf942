"""Rows of a tag head -> entity precision, recall and F1 with intervals, and token accuracy.

"default" reads tags as conlleval does, and is the headline; "strict" as IOB2 (text/tags.py). What
is summed are whole numbers, kept by sentence, so that 1, 2 or 7 shards give the same digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qa_dist.files import write_text
from qa_dist.recipe import Recipe, Source
from qa_dist.text.bootstrap import ratio_interval
from qa_dist.text.tags import (
    SentenceCounts,
    Tally,
    all_types,
    count_sentence,
    rates,
    sum_tallies,
)

Rows = Sequence[Mapping[str, Any]]
HEADLINE = "default"


def score_tags(
    recipe: Recipe, source: Source, dev: Rows, heldout: Rows | None, folder: Path, prefix: str
) -> dict[str, Any]:
    """Return the scores of a checkpoint on one source, in percent, and write its tags for conlleval
    into `folder`, under a name that begins with `prefix`.

    "em" is the share of sentences whose tags are all right. Intervals are over documents, or over
    sentences where there are none.
    """
    counts = [count_sentence(row["gold"], row["tags"]) for row in dev]
    groups = [str(row["group"]) for row in dev]
    num_resamples = recipe.evaluation.num_resamples
    whole = _Ratios(groups, num_resamples)
    right = [int(c.right_words == c.words) for c in counts]
    shared = {
        **whole.figure("em", right, [1] * len(right)),
        **whole.figure("accuracy", [c.right_words for c in counts], [c.words for c in counts]),
    }
    write_text(folder / f"{prefix}official.conll", _conlleval(dev))
    return {
        "headline": HEADLINE,
        "num_questions": len(dev),
        "num_groups": len(set(groups)),
        "scores": {
            HEADLINE: {**whole.entities([all_types(c.default) for c in counts]), **shared},
            "strict": {**whole.entities([all_types(c.strict) for c in counts]), **shared},
        },
        "by": {"entity_type": _by_type(whole, counts)},
    }


class _Ratios:
    """Sums over sentences, divided, with 95 % intervals."""

    def __init__(self, groups: Sequence[str], num_resamples: int) -> None:
        self._groups, self._num_resamples = groups, num_resamples

    def figure(self, name: str, above: Sequence[int], below: Sequence[int]) -> dict[str, float]:
        """Return a ratio in percent, 0 where there is nothing to divide by, and its interval."""
        low, high = ratio_interval(above, below, self._groups, self._num_resamples)
        total = 100 * sum(above) / sum(below) if sum(below) else 0.0
        return {name: total, f"{name}_low": 100 * low, f"{name}_high": 100 * high}

    def entities(self, tallies: Sequence[Tally]) -> dict[str, float]:
        """Return precision, recall and F1 over sentences' entities."""
        right, found, gold = ([tally[i] for tally in tallies] for i in range(3))
        f1 = self.figure("f1", [2 * r for r in right], [f + g for _, f, g in tallies])
        f1["f1"] = 100 * rates(Tally(sum(right), sum(found), sum(gold))).f1  # seqeval's last digit
        return {
            **f1,
            **self.figure("precision", right, found),
            **self.figure("recall", right, gold),
        }


def _by_type(whole: _Ratios, counts: Sequence[SentenceCounts]) -> dict[str, dict[str, float]]:
    none = Tally(0, 0, 0)
    return {
        name: {
            "num_entities": tally.gold,
            **whole.entities([c.default.get(name, none) for c in counts]),
        }
        for name, tally in sum_tallies(c.default for c in counts).items()
    }


def _conlleval(rows: Rows) -> str:
    """Return what the script conlleval reads: a word, its gold and its predicted tag on each line,
    a blank line after each sentence."""
    lines = []
    for row in rows:
        for word, *tags in zip(row["words"], row["gold"], row["tags"], strict=True):
            lines.append(" ".join(("_".join(word.split()) or "_", *tags)))
        lines.append("")
    return "\n".join(lines) + "\n"
