"""Passages -> windows of one shard, one module for each form: what prepare runs on its records.

`form_of` a source decides; MAKERS is a literal dict that mypy checks against Maker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from qa_dist.data.shard_writer import ShardWriter
from qa_dist.recipe import Recipe, Source, form_of
from qa_dist.records import Passage
from qa_dist.text.windows import PairTemplate
from qa_dist.windowing.counts import FIRST_IDS, Counts
from qa_dist.windowing.span import SpanMaker
from qa_dist.windowing.tags import TagMaker
from qa_dist.windowing.text import TextMaker

__all__ = ["FIRST_IDS", "Counts", "Maker", "load_maker"]


class Maker(Protocol):
    """Turns passages into what a shard holds."""

    @property
    def template(self) -> PairTemplate:
        """Special tokens around each window."""
        ...

    @property
    def vocab_size(self) -> int:
        """All token ids are smaller."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Names of the answer classes, or of the labels of words."""
        ...

    def add(self, writer: ShardWriter, passages: list[Passage]) -> None:
        """Tokenise some passages and write their contexts, examples and windows."""
        ...


def load_maker(
    recipe: Recipe, source: Source, part: str, counts: Counts, labels: Sequence[str]
) -> Maker:
    """Return what makes the windows of "train", "dev" or "heldout" of a source, counting in
    `counts`; `labels`: of words, for the form "tags". Raises InputError if the tokenizer can't be
    loaded."""
    if form_of(recipe, source) == "tags":
        return TagMaker(recipe, counts, labels)
    makers: dict[str, Callable[[Recipe, Source, str, Counts], Maker]] = {
        "span": SpanMaker,
        "text": TextMaker,
    }
    return makers[form_of(recipe, source)](recipe, source, part, counts)
