"""Tags of words ("O", "B-PER", "I-PER", ...): IOB1 to IOB2, entities, and what is scored on them.

In: a sentence's tags, one per word. Out: entities as (type, first word, last word), and counts per
sentence that add up to a split's precision, recall and F1. Both of seqeval's readings of tags are
here, equal to the last digit: "default" (conlleval's: an I-X after O, or after another type, opens
an entity) and "strict" (IOB2: only a B-X does; an I-X without one before it is nothing). Knows no
tokens, no models and no files.

Worked example. `B-PER I-PER I-LOC O` holds PER 0-1 and LOC 2-2 by default, PER 0-1 alone if strict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

OUTSIDE = "O"
FIRST_TYPES = ("PER", "ORG", "LOC", "MISC")
"""CoNLL-2003's, in the order of its labels; other types follow by name."""


class Entity(NamedTuple):
    """A named entity of a sentence; words are counted from 0, `last` is its own."""

    type: str
    first: int
    last: int


class Tally(NamedTuple):
    """Entities of one type in some sentences: found rightly, found, and there."""

    right: int
    found: int
    gold: int

    def plus(self, other: Tally) -> Tally:
        """Return both together."""
        return Tally(*(mine + its for mine, its in zip(self, other, strict=True)))


@dataclass(frozen=True)
class SentenceCounts:
    """What is counted in one sentence; a sum over sentences is what a split's scores come from."""

    default: dict[str, Tally] = field(default_factory=dict)
    """Of each type that is there or was found, as conlleval reads tags."""
    strict: dict[str, Tally] = field(default_factory=dict)
    """The same in strict IOB2."""
    words: int = 0
    right_words: int = 0
    """Words whose whole tag is right."""


class Rates(NamedTuple):
    """Precision, recall and F1, each 0..1; 0 where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float


def is_tag(text: str) -> bool:
    """Tell whether a text is "O", or "B-" or "I-" and a type."""
    kind = text[2:]
    return text == OUTSIDE or (text[:2] in ("B-", "I-") and kind != "" and kind.split() == [kind])


def type_of(tag: str) -> str:
    """Return the type of a tag; "" for O."""
    return tag[2:]


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """Return tags of which each entity's first is B-X.

    IOB1 has B-X only where an entity of the same type stands right before; IOB2 comes out as it
    went in. What both break (an I-X that follows nothing of its type) is read as an entity's start.
    """
    found = []
    before = OUTSIDE
    for tag in tags:
        opens = tag[:2] == "I-" and type_of(before) != type_of(tag)
        found.append(f"B-{type_of(tag)}" if opens else tag)
        before = tag
    return tuple(found)


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities as seqeval reads them by default, which is as conlleval does."""
    return find_strict_entities(to_iob2(tags))


def find_strict_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities as seqeval reads them in strict IOB2: B-X and the I-X that follow it."""
    found: list[Entity] = []
    open_type = ""  # of the entity that the word before ended or went on with
    for word, tag in enumerate(tags):
        if tag[:2] == "B-":
            open_type = type_of(tag)
            found.append(Entity(open_type, word, word))
        elif open_type and tag == f"I-{open_type}":
            found[-1] = found[-1]._replace(last=word)
        else:
            open_type = ""
    return found


def label_names(types: Iterable[str]) -> list[str]:
    """Return a model's labels for entities of some types: O, then B-X and I-X of each.

    CoNLL-2003's four types come first, in the order of its usual label numbers.
    """
    given = set(types)
    ordered = [name for name in FIRST_TYPES if name in given]
    ordered += sorted(given.difference(FIRST_TYPES))
    return [OUTSIDE, *(f"{letter}-{name}" for name in ordered for letter in "BI")]


# --- Scores ---


def count_sentence(gold: Sequence[str], predicted: Sequence[str]) -> SentenceCounts:
    """Compare a sentence's tags with its gold tags, word by word and entity by entity.

    Raises ValueError where they aren't as many.
    """
    right_words = sum(a == b for a, b in zip(gold, predicted, strict=True))
    return SentenceCounts(
        default=_tallies(find_entities(gold), find_entities(predicted)),
        strict=_tallies(find_strict_entities(gold), find_strict_entities(predicted)),
        words=len(gold),
        right_words=right_words,
    )


def _tallies(gold: list[Entity], found: list[Entity]) -> dict[str, Tally]:
    right = Counter(entity.type for entity in set(gold) & set(found))
    num_gold, num_found = (Counter(entity.type for entity in each) for each in (gold, found))
    return {
        name: Tally(right[name], num_found[name], num_gold[name])
        for name in sorted(num_gold.keys() | num_found.keys())
    }


def sum_tallies(sentences: Iterable[Mapping[str, Tally]]) -> dict[str, Tally]:
    """Add up the tallies of sentences, type by type; types by name."""
    total: dict[str, Tally] = {}
    for tallies in sentences:
        for name, tally in tallies.items():
            total[name] = total[name].plus(tally) if name in total else tally
    return dict(sorted(total.items()))


def all_types(tallies: Mapping[str, Tally]) -> Tally:
    """Add up the tallies of all types: what the micro averages are taken of."""
    total = Tally(0, 0, 0)
    for tally in tallies.values():
        total = total.plus(tally)
    return total


def rates(tally: Tally) -> Rates:
    """Return precision, recall and F1, with seqeval's products in seqeval's order."""
    precision = tally.right / tally.found if tally.found else 0.0
    recall = tally.right / tally.gold if tally.gold else 0.0
    both = precision + recall
    return Rates(precision, recall, 2.0 * precision * recall / both if both else 0.0)
