"""Model FLOP utilisation of training BERT-base on windows of SQuAD 1.1's real lengths.

    python benchmarks/gpu_mfu.py [device=cuda] [shape=base] [batch=128] [runs=5] [tflops=790]

Utilisation = FLOPs of the real tokens, forward and backward, per second, by the device's peak in
bf16 (`tflops` TFLOP/s; 790 is what an H200 gives in dense matrix products). Of a window of t tokens
and an encoder of L layers, H hidden, I inner these are

    3 * (2 t L (4 H^2 + 2 H I) + 4 t^2 L H)

multiplications and additions of the linear layers (query, key, value, output; the two of the inner
one) and of the scores and sums of attention; backward counts twice forward. Padding, embeddings,
normalisation, dropout, the head and the optimizer count nothing, but their time does: a step is all
that jobs/train.py does but scalars. No peer: the best public figure found for this size is 21.5 %
(ELECTRA-base, A100, 317 windows/s). Two rows: a recipe's default dropout (hidden 0.1, attention
0), and none.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import inputs
from side_by_side import Row, measured, run_script
from training import Ours

STEPS = 48


def rows(
    device: str = "cuda",
    shape: str = "base",
    batch: int = 128,
    runs: int = 5,
    tflops: float = 790.0,
) -> Iterator[Row]:
    """Measure each row."""
    steps = STEPS if device == "cuda" else 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, encoder = inputs.squad(folder), inputs.encoder(folder / "encoder", shape)
        for kind, settings in (
            ("default dropout", ()),
            ("no dropout", ("model.hidden_dropout=0.0",)),
        ):
            ours = Ours(folder / kind, encoder, data, batch, *settings)
            if ours.device.type != device:
                raise SystemExit(f"device={device}: this machine trains on {ours.device.type}")
            ours.start(steps)
            flops = sum(window_flops(shape, int(t)) for t in ours.lengths) / len(ours.lengths)
            rates = [ours.windows_per_run / ours.steps(steps) for _ in range(runs)]
            rate = statistics.median(rates)
            packed = "packed" if ours.training.model.is_packed else "padded"
            yield measured(
                f"training, FLOP utilisation, {kind}",
                100 * rate * flops / (tflops * 1e12),
                "%",
                ">= 35",
                runs=runs,
                libraries=("torch", "transformers"),
                note=f"{shape}, {rate:.0f} windows/s, {rate * flops / 1e12:.1f} TFLOP/s, "
                f"{ours.engine.precision}, {packed}, {batch} windows a step",
            )
            ours.engine.close()


def window_flops(shape: str, tokens: int) -> float:
    """Return the FLOPs of a window of so many tokens, forward and backward."""
    width, layers, _, inner = inputs.SHAPES[shape]
    linear = 2 * tokens * layers * (4 * width**2 + 2 * width * inner)
    return 3.0 * (linear + 4 * tokens**2 * layers * width)


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
