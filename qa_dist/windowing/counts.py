"""What is counted while a shard is made, for the summary at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FIRST_IDS = 5


@dataclass
class Counts:
    """What is said about a shard at the end; the same however often it is made."""

    examples: int = 0
    windows: int = 0
    without_answer: int = 0
    cut_questions: int = 0
    dropped: dict[str, list[Any]] = field(default_factory=dict)
    """Reason -> [count, first ids]."""
    ceiling: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sums of EM and F1 of the targets themselves against the references."""

    def drop(self, record_id: str, reason: str) -> None:
        """Count a record that isn't used, or is used with a flaw."""
        entry = self.dropped.setdefault(reason, [0, []])
        entry[0] += 1
        if len(entry[1]) < FIRST_IDS:
            entry[1].append(record_id)
