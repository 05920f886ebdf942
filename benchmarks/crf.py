"""The CRF's loss with its gradients, and its decode, against pytorch-crf's, side by side.

    python benchmarks/crf.py [threads=2] [runs=15] [device=cpu]

The peer is pytorch-crf's `torchcrf.CRF(num_labels, batch_first=True)` as published, in fp32, with
the same parameters, emissions, labels and ragged mask (T = 384, lengths from 128), in the same
process with the same number of threads. Before any time is taken, log Z and gradients are compared
with the peer's in float64 (fp32's own error at T = 384 is above 1e-4), the decoded labels with the
peer's in fp32. Each run times one call of the peer and then as many of ours as take about as long,
A B then B A. Prints one JSON line per row: milliseconds per call, medians over the runs, ratio =
median of the runs' ratios; above 1: ours is faster.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NUM_STEPS = 384
sys.path.insert(0, str(ROOT))


def main(argv: Sequence[str]) -> int:
    """Measure each row, print its JSON line, return 0."""
    import torch

    keys = dict(word.partition("=")[::2] for word in argv)
    if not set(keys) <= {"threads", "runs", "device"}:
        print(__doc__)
        return 2
    torch.set_num_threads(int(keys.get("threads", 2)))
    runs, device = int(keys.get("runs", 15)), keys.get("device", "cpu")
    for num_labels in (3, 5):
        for num_sequences in (8, 32):
            case = Case(num_labels, num_sequences, device)
            case.compare()
            size = f"B={num_sequences} T={NUM_STEPS} L={num_labels}"
            for name, ours, theirs in (
                ("crf_loss_backward", case.our_step, case.their_step),
                ("crf_decode", case.our_decode, case.their_decode),
            ):
                row = {"name": f"{name} {size}", **measure(ours, theirs, runs, device)}
                print(json.dumps(row), flush=True)
    return 0


class Case:
    """The two CRFs and a batch for both."""

    def __init__(self, num_labels: int, num_sequences: int, device: str) -> None:
        import torch
        from torchcrf import CRF

        from qa_dist.models.crf import LinearChainCRF

        torch.manual_seed(num_labels + num_sequences)
        self.theirs = CRF(num_labels, batch_first=True).to(device)
        self.ours = LinearChainCRF(num_labels).to(device)
        self.ours.load_state_dict(self.theirs.state_dict())
        size = (num_sequences, NUM_STEPS)
        self.emissions = torch.randn(*size, num_labels, device=device, requires_grad=True)
        self.labels = torch.randint(num_labels, size, device=device)
        lengths = torch.randint(NUM_STEPS // 3, NUM_STEPS + 1, (num_sequences, 1), device=device)
        lengths[0] = NUM_STEPS
        self.mask = torch.arange(NUM_STEPS, device=device) < lengths

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
        for tensor in (self.emissions, *self.ours.parameters()):
            tensor.grad = None


def measure(
    ours: Callable[[], object], theirs: Callable[[], object], runs: int, device: str
) -> dict[str, Any]:
    """Return the row: `runs` times each, in turn."""
    import torch

    def seconds(do: Callable[[], object], times: int) -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            do()
        if device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / times

    seconds(ours, 3), seconds(theirs, 1)
    times = max(1, round(seconds(theirs, 1) / seconds(ours, 3)))
    values: dict[str, list[float]] = {"ours": [], "theirs": []}
    turn = [("theirs", theirs, 1), ("ours", ours, min(times, 50))]
    for _ in range(runs):
        for name, do, count in turn:
            values[name].append(1000 * seconds(do, count))
        turn.reverse()
    ratios = [b / a for a, b in zip(values["ours"], values["theirs"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ours": round(statistics.median(values["ours"]), 3),
        "theirs": round(statistics.median(values["theirs"]), 3),
        "ratio": round(middle, 2),
        "quartiles": [round(low, 2), round(high, 2)],
        "unit": "ms per call",
        "runs": runs,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "versions": {
            "torch": torch.__version__,
            "pytorch-crf": version("pytorch-crf"),
            "python": platform.python_version(),
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
