"""Rows 1 and 2: the CRF's loss with its gradients, and its decode, against pytorch-crf's.

    python benchmarks/crf.py [threads=2] [runs=9] [device=cpu]

The peer is pytorch-crf's `torchcrf.CRF(num_labels, batch_first=True)` as published, in fp32, with
the same parameters, emissions, labels and ragged mask (T = 384, lengths from 128), in the same
process with the same number of threads. Before any time is taken, log Z and gradients are compared
with the peer's in float64 (fp32's own error at T = 384 is above 1e-4), the decoded labels with the
peer's in fp32. Each run times one call of the peer and then as many of ours as take about as long,
A B then B A. Milliseconds per call; ratio above 1: ours is faster. Goals on two CPU cores: loss and
backward >= 10 at B = 8, decode >= 8 at B = 8 and >= 15 at B = 32; with device=cuda >= 50.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from typing import Any

from side_by_side import Row, compared, in_turn, run_script

NUM_STEPS = 384
DECODE_GOALS = {8: ">= 8", 32: ">= 15"}


def rows(threads: int = 2, runs: int = 9, device: str = "cpu") -> Iterator[Row]:
    """Yield the rows of 3 and 5 labels: the loss at B = 8, the decode at B = 8 and 32."""
    import torch

    torch.set_num_threads(threads)
    for num_labels in (3, 5):
        for num_sequences, decode_goal in DECODE_GOALS.items():
            case = Case(num_labels, num_sequences, device)
            case.compare()
            size = f"B={num_sequences} T={NUM_STEPS} L={num_labels}"
            parts = [("crf decode", decode_goal, case.our_decode, case.their_decode)]
            if num_sequences == 8:
                parts.insert(0, ("crf loss and backward", ">= 10", case.our_step, case.their_step))
            for name, goal, ours, theirs in parts:
                (mine,), (other,) = in_turn(ours, theirs, 1, (3, 1))
                calls = max(1, min(50, round(other / mine)))
                yield compared(
                    f"{name} {size}",
                    in_turn(ours, theirs, runs, (calls, 1), case.clock),
                    goal if device == "cpu" else ">= 50",
                    unit="ms",
                    scale=1000,
                    libraries=("torch", "pytorch-crf"),
                    note="" if device == "cpu" else torch.cuda.get_device_name(),
                )


class Case:
    """The two CRFs and a batch for both."""

    def __init__(self, num_labels: int, num_sequences: int, device: str) -> None:
        import torch
        from torchcrf import CRF

        from qa_dist.models.crf import LinearChainCRF

        torch.manual_seed(num_labels + num_sequences)
        self.device = device
        self.theirs = CRF(num_labels, batch_first=True).to(device)
        self.ours = LinearChainCRF(num_labels).to(device)
        self.ours.load_state_dict(self.theirs.state_dict())
        size = (num_sequences, NUM_STEPS)
        self.emissions = torch.randn(*size, num_labels, device=device, requires_grad=True)
        self.labels = torch.randint(num_labels, size, device=device)
        lengths = torch.randint(NUM_STEPS // 3, NUM_STEPS + 1, (num_sequences, 1), device=device)
        lengths[0] = NUM_STEPS
        self.mask = torch.arange(NUM_STEPS, device=device) < lengths

    def clock(self) -> float:
        """Return the time once the device has done all it was given."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def our_step(self) -> None:
        self.ours(self.emissions, self.labels, self.mask).neg().backward()

    def their_step(self) -> None:
        self.theirs(self.emissions, self.labels, self.mask).neg().backward()

    def our_decode(self) -> Any:
        return self.ours.decode(self.emissions, self.mask)

    def their_decode(self) -> Any:
        return self.theirs.decode(self.emissions, self.mask)

    def compare(self) -> None:
        """Stop with an error where the two don't compute the same."""
        import torch

        exact = copy.deepcopy(self.theirs).double()
        emissions = self.emissions.detach().double().requires_grad_()
        exact(emissions, self.labels, self.mask).neg().backward()
        self.our_step()
        with torch.no_grad():
            log_z = exact._compute_normalizer(emissions.transpose(0, 1), self.mask.T)
            differences = {
                "log Z": (self.ours.log_partition(self.emissions, self.mask) - log_z).abs().max(),
                "emissions' gradient": (self.emissions.grad - emissions.grad).abs().max(),
                "transitions' gradient": (
                    (self.ours.transitions.grad - exact.transitions.grad).abs().max()
                ),
            }
        for name, difference in differences.items():
            if not difference <= 1e-4:
                raise SystemExit(f"{name} differs by {float(difference):.1e}: not the same work")
        if self.our_decode() != self.their_decode():
            raise SystemExit("decoded labels differ: not the same work")
        for tensor in (self.emissions, *self.ours.parameters(), *self.theirs.parameters()):
            tensor.grad = None


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
