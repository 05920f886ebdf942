"""Which windows each step trains on, and their tensors on a rank's device.

The shards' bytes are compared with their hashes first, each rank a share, and all ranks fail
together. What is validated is a fixed sample of the dev windows, the same for any world size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qa_dist.data.collate import Batch, collate
from qa_dist.data.order import Order
from qa_dist.data.prepared import Prepared, read_template
from qa_dist.data.shards import Split, verify_shards
from qa_dist.files import MARKER, BrokenFileError
from qa_dist.recipe import Recipe
from qa_dist.records import InputError
from qa_dist.tasks import TASKS
from qa_dist.training.engine import Engine


class Batches:
    """The batches of one run; raises InputError for broken shards, and more ranks than can share a
    step."""

    def __init__(self, recipe: Recipe, prepared: Prepared, engine: Engine) -> None:
        settings = recipe.train
        self.engine = engine
        task = TASKS[recipe.sources[0].task]
        self.null_class = task.ANSWER_CLASSES.index(task.NULL_CLASS) if task.NULL_CLASS else None
        self.train_split = _open_verified(prepared, "train", engine)
        self.dev_split = prepared.open("dev")
        self.template = read_template(self.train_split)
        self.num_steps = count_steps(recipe, self.train_split.num_windows)
        if engine.world_size > max(1, settings.min_micro_batches_per_step):
            raise InputError(
                f"train.min_micro_batches_per_step={settings.min_micro_batches_per_step}: "
                f"{engine.world_size} ranks can't share a step that is cut into fewer "
                "micro-batches; set it to the most ranks you will ever use"
            )
        self.order = Order(
            prepared.fingerprint,
            settings.seed,
            self.train_split.lengths(),
            settings.batch_windows,
            settings.micro_batch_tokens,
            settings.min_micro_batches_per_step,
        )
        self.num_validated = min(settings.validation_windows, self.dev_split.num_windows)
        """Dev windows behind the validation loss; 0: there is none."""
        self._micro_batch_tokens = settings.micro_batch_tokens

    def validation_micro_batches(self) -> list[NDArray[np.int64]]:
        """Return the numbers of the dev windows to validate on, as micro-batches."""
        order = Order(
            self.order.fingerprint,
            seed=0,
            lengths=self.dev_split.lengths(),
            batch_windows=self.num_validated,
            micro_batch_tokens=self._micro_batch_tokens,
            min_micro_batches=1,
        )
        return order.micro_batches(0)

    def collate(self, split: Split, windows: Sequence[int]) -> Batch:
        """Return windows as this rank's device likes them; window 0 in the place of none."""
        engine = self.engine
        chosen = windows if len(windows) else [0]
        batch = collate(split, chosen, self.template, self.null_class, engine.pad_multiple)
        return batch.to(engine.device)


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


def count_steps(recipe: Recipe, num_windows: int) -> int:
    """Return the steps of the whole run."""
    if num_windows == 0:
        raise InputError("sources.0.train: not one window to train on; see what prepare dropped")
    if recipe.train.max_steps:
        return recipe.train.max_steps
    steps_per_epoch = math.ceil(num_windows / recipe.train.batch_windows)
    return max(1, round(recipe.train.epochs * steps_per_epoch))
