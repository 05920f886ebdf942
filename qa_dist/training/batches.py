"""Which windows each step trains on, and their tensors on a rank's device.

The shards' bytes are compared with their hashes first, each rank a share, and all ranks fail
together. What is validated is a fixed sample of the dev windows, the same for any world size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qa_dist.data.collate import Batch, collate
from qa_dist.data.mixture import Mixture, make_cycle
from qa_dist.data.order import Order
from qa_dist.data.prepared import Prepared, read_template
from qa_dist.data.shards import Split, verify_shards
from qa_dist.files import MARKER, BrokenFileError
from qa_dist.recipe import Recipe, SourceSplit, source_splits, trained_sources
from qa_dist.records import InputError
from qa_dist.tasks import null_class
from qa_dist.training.engine import Engine


@dataclass(frozen=True)
class StepBatch:
    """What one step trains on."""

    source: int
    """Its number among the trained sources."""
    micro_batches: list[NDArray[np.int64]]
    """Window numbers, the same for every world size."""
    num_targets: int
    """What the summed loss is divided by."""


class SourceBatches:
    """The windows of one source."""

    def __init__(
        self, recipe: Recipe, prepared: Prepared, engine: Engine, splits: Sequence[SourceSplit]
    ) -> None:
        """`splits`: those of this source."""
        settings, self.engine = recipe.train, engine
        names = {split.part: split.name for split in splits}
        self.null_class = null_class(recipe, recipe.sources[splits[0].source])
        self.train_split = _open_verified(prepared, names["train"], engine)
        self.dev_split = prepared.open(names["dev"])
        self.template = read_template(self.train_split)
        if self.train_split.num_windows == 0:
            key = f"sources.{splits[0].source}.train"
            raise InputError(f"{key}: not one window to train on; see what prepare dropped")
        self.order = Order(
            prepared.fingerprint,
            settings.seed,
            self.train_split.lengths(),
            settings.batch_windows,
            settings.micro_batch_tokens,
            settings.min_micro_batches_per_step,
        )
        self._train_targets, self._dev_targets = (
            self.train_split.targets(),
            self.dev_split.targets(),
        )
        self._validated: list[NDArray[np.int64]] = []
        num_validated = min(settings.validation_windows, self.dev_split.num_windows)
        if num_validated:
            sample = Order(
                prepared.fingerprint,
                seed=0,
                lengths=self.dev_split.lengths(),
                batch_windows=num_validated,
                micro_batch_tokens=settings.micro_batch_tokens,
                min_micro_batches=1,
            )
            self._validated = sample.micro_batches(0)

    def step(self, number: int, source: int) -> StepBatch:
        """Return this source's step `number` (from 0)."""
        micro_batches = self.order.micro_batches(number)
        return StepBatch(source, micro_batches, _count(self._train_targets, micro_batches))

    def validation(self, source: int) -> StepBatch:
        """Return the dev windows to validate on, as one step; without micro-batches: none."""
        return StepBatch(source, self._validated, _count(self._dev_targets, self._validated))

    def collate(self, split: Split, windows: Sequence[int]) -> Batch:
        """Return windows as this rank's device likes them; window 0 in the place of none."""
        engine = self.engine
        chosen = windows if len(windows) else [0]
        batch = collate(split, chosen, self.template, self.null_class, engine.pad_multiple)
        return batch.to(engine.device)


class Batches:
    """The batches of one run; raises InputError for broken shards, and more ranks than can share a
    step."""

    def __init__(self, recipe: Recipe, prepared: Prepared, engine: Engine) -> None:
        settings = recipe.train
        splits = source_splits(recipe)
        self.sources = [
            SourceBatches(recipe, prepared, engine, [s for s in splits if s.source == place])
            for place in trained_sources(recipe)
        ]
        if engine.world_size > max(1, settings.min_micro_batches_per_step):
            raise InputError(
                f"train.min_micro_batches_per_step={settings.min_micro_batches_per_step}: "
                f"{engine.world_size} ranks can't share a step that is cut into fewer "
                "micro-batches; set it to the most ranks you will ever use"
            )
        steps = [source.order.steps_per_epoch for source in self.sources]
        self.steps_per_epoch = sum(steps)
        """Of all sources together."""
        self.num_steps = settings.max_steps or max(1, round(settings.epochs * sum(steps)))
        """Steps of the whole run."""
        self.mixture = Mixture(make_cycle(settings.mixing, settings.mixing_temperature, steps))

    @property
    def classes(self) -> list[list[str]]:
        """Names of each source's answer classes or labels."""
        return [source.train_split.classes for source in self.sources]

    def step(self, step: int) -> StepBatch:
        """Return what step `step` (from 0) trains on: a pure function of the step."""
        source, number = self.mixture.locate(step)
        return self.sources[source].step(number, source)

    def epochs(self, source: int, steps: int) -> float:
        """Return how often a source's windows were seen in the first `steps` steps."""
        return self.mixture.count(source, steps) / self.sources[source].order.steps_per_epoch


def _count(targets: NDArray[np.uint32], micro_batches: Sequence[NDArray[np.int64]]) -> int:
    return int(sum(int(targets[windows].sum()) for windows in micro_batches))


def _open_verified(prepared: Prepared, name: str, engine: Engine) -> Split:
    broken: dict[Path, str] = {}
    split = prepared.open(name)
    for _, path in engine.my_share(prepared.shards(name)):
        try:
            verify_shards([path])
        except BrokenFileError as error:
            broken[path] = str(error)
    problems = [text for texts in engine.gather(list(broken.values())) for text in texts]
    for path in broken:  # all have opened it: no longer believed, so that it is made anew
        with suppress(OSError):
            (path / MARKER).unlink()
    if problems:
        raise InputError(
            f"{problems[0]}. Launch the run again: that shard is made anew (if its {MARKER} is "
            "still there, delete that first)"
        )
    return split
