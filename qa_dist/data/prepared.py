"""The prepared data of a run: which folder, how many shards of each split, and are they all there.

Written into run.json when a run is made, read by training and evaluation. Each reader checks the
shards' markers itself: that a scheduler let it start proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_dist.files import BrokenFileError, read_json
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, shard_name

# What opens shards is imported where it is needed: jobs/status.py asks for names only, at once.
if TYPE_CHECKING:
    from qa_dist.data.shards import Split
    from qa_dist.text.windows import PairTemplate


@dataclass(frozen=True)
class Prepared:
    """Where a run's windows lie."""

    folder: Path
    """prepared/<fingerprint>"""
    fingerprint: str
    num_shards: dict[str, int]
    """Shards of each split: train, dev, and heldout where there is one; of several sources
    "ner.train" ..."""

    def shards(self, split: str) -> list[Path]:
        """Return the folders of a split's shards, in order."""
        num = self.num_shards[split]
        return [self.folder / shard_name(split, index, num) for index in range(num)]

    def elements(self) -> list[tuple[str, int]]:
        """Return (split, shard) of each element of the prepare array, in order."""
        return [(split, i) for split, num in self.num_shards.items() for i in range(num)]

    def classes(self, split: str) -> list[str]:
        """Return the names of a split's answer classes, or of the labels of its words."""
        from qa_dist.data.shards import Shard

        return list(Shard(self.shards(split)[0]).marker["classes"])

    def missing(self, split: str) -> list[Path]:
        """Return the shards of a split that aren't finished."""
        from qa_dist.data.shards import find_shards

        return find_shards(self.folder, split, self.num_shards[split])[1]

    def open(self, split: str) -> Split:
        """Map all shards of a split into memory. Raises InputError naming those that are missing or
        broken."""
        from qa_dist.data.shards import open_split

        missing = self.missing(split)
        if missing:
            names = ", ".join(path.name for path in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise InputError(
                f"{self.folder}: {len(missing)} of {self.num_shards[split]} shards aren't "
                f"prepared: {names}{more}. "
                "Launch the run again: it prepares what is missing"
            )
        try:
            return open_split(self.shards(split))
        except BrokenFileError as error:
            raise InputError(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        """Return what run.json keeps."""
        return {
            "folder": str(self.folder),
            "fingerprint": self.fingerprint,
            "num_shards": self.num_shards,
        }


def read_prepared(run: RunDir) -> Prepared:
    """Return the prepared data that run.json names."""
    facts = read_json(run.run_json)["prepared"]
    return Prepared(Path(facts["folder"]), facts["fingerprint"], facts["num_shards"])


def read_template(split: Split) -> PairTemplate:
    """Return the special tokens around question and context, as the shards' markers keep them."""
    from qa_dist.text.windows import PairTemplate

    return PairTemplate.from_json(split.shards[0].marker["template"])
