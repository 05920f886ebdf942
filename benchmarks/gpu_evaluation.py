"""The share of an evaluation's time that isn't the model's forward pass.

    python benchmarks/gpu_evaluation.py [device=cuda] [shape=base] [runs=3] [questions=10000]

One element of the evaluate array, as jobs/evaluate.py does it: windows of SQuAD 1.1's dev questions
from a shard through a random BERT with a span head to rows with n best answers, null odds, EM and
F1; not counted are loading the model and writing the rows. The forward pass is the encoder's, from
a batch on the device to its hidden states, waited for before and after; all else (making batches,
the head, n best, scores) is the share. No peer.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inputs
from side_by_side import Row, measured, run_script
from training import prepare


def rows(
    device: str = "cuda", shape: str = "base", runs: int = 3, questions: int = 10_000
) -> Iterator[Row]:
    """Measure the row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, encoder = inputs.squad(folder), inputs.encoder(folder / "encoder", shape)
        predictor, forward = make(folder, encoder, data, questions)
        if forward.device.type != device:
            raise SystemExit(f"device={device}: this machine evaluates on {forward.device.type}")
        shares, seconds = [], []
        for _ in range(1 + runs):
            forward.seconds.clear()
            started = time.perf_counter()
            count = sum(1 for _ in predictor.rows())
            seconds.append(time.perf_counter() - started)
            shares.append(100 * (1 - sum(forward.seconds) / seconds[-1]))
        rate = count / statistics.median(seconds[1:])
        packed = "packed" if forward.model.is_packed else "padded"
        yield measured(
            "evaluation, share that isn't the forward pass",
            statistics.median(shares[1:]),
            "%",
            "<= 5",
            runs=runs,
            libraries=("torch", "transformers"),
            note=f"{shape}, {rate:.0f} questions/s, {forward.precision}, {packed}",
        )


def make(folder: Path, encoder: Path, data: inputs.Inputs, questions: int) -> tuple[Any, Any]:
    """Return what predicts the dev shard, and its forward pass, which notes its seconds."""
    import torch

    from qa_dist.evaluation.forward import Forward
    from qa_dist.evaluation.predict import load_trained, make_predictor
    from qa_dist.training.engine import resolve_precision

    run, recipe, prepared = prepare(
        folder / "run", encoder, data, 12, (), train_questions=50, dev_questions=questions
    )
    facts = json.loads(run.run_json.read_text()) | {"precision": resolve_precision("auto")}
    run.run_json.write_text(json.dumps(facts))
    model = load_trained(run, recipe, prepared, None)
    predictor: Any = make_predictor(run, recipe, model, 0, prepared.open("dev"))

    class Timed(Forward):
        """Notes how long each pass took."""

        seconds: list[float] = []  # noqa: RUF012

        def hidden(self, batch: Any) -> torch.Tensor:
            started = self.clock()
            hidden = super().hidden(batch)
            self.seconds.append(self.clock() - started)
            return hidden

        def clock(self) -> float:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

    predictor.forward = Timed(**vars(predictor.forward))
    return predictor, predictor.forward


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
