"""Where a run stands: what follows from the steps done so far, and goes into each checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Progress:
    """What a checkpoint keeps beside weights and moments."""

    step: int = 0
    """Steps done."""
    windows_sha256: str = hashlib.sha256().hexdigest()
    """Chained over the window numbers of all steps done: equal only if each step saw the same
    windows."""
    loss_sums: list[float] = field(default_factory=list)
    """For each source, the sum of the losses of its steps since scalars were last written."""
    loss_steps: list[int] = field(default_factory=list)
    """How many steps those are."""
    balance: list[float] = field(default_factory=list)
    """What weighs the sources' losses: balance.py's state."""
    best_step: int = 0
    """Step of the checkpoint with the lowest validation loss; 0: none yet."""
    best_loss: float = float("inf")

    def chain(self, micro_batches: Sequence[np.ndarray]) -> None:
        """Take a step's windows into the hash."""
        chain = hashlib.sha256(bytes.fromhex(self.windows_sha256))
        for windows in micro_batches:
            chain.update(windows.tobytes())
        self.windows_sha256 = chain.hexdigest()

    def validated(self, loss: float) -> None:
        """Take in the validation loss of the step that is about to be saved."""
        if loss < self.best_loss:
            self.best_step, self.best_loss = self.step, loss
