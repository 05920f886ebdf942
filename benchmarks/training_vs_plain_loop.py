"""Training windows/s against a plain PyTorch loop, side by side on the same windows.

    python benchmarks/training_vs_plain_loop.py encoder=FOLDER train=train-v1.1.json [steps=40]

The peer is what a careful user writes by hand: transformers' AutoModelForQuestionAnswering
(attention dropout 0, as ours), windows encoded once by the fast tokenizer, batches of 16 windows of
like length padded to their longest, fused AdamW, linear warm-up, clipping at 1, the same precision
and threads. Both train on the very same windows in the same order, step by step in turn, A B then
B A, so that a machine's moods meet both. Prints one JSON line: the median of the steps' ratios and
its quartiles; ratio > 1: ours is faster.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_STEPS = 3
sys.path.insert(0, str(ROOT))


def main(argv: Sequence[str]) -> int:
    """Measure, print one JSON line, return 0."""
    keys = dict(word.partition("=")[::2] for word in argv)
    if not {"encoder", "train"} <= set(keys):
        print(__doc__)
        return 2
    num_steps = int(keys.get("steps", 40))
    with tempfile.TemporaryDirectory() as folder:
        ours = build_ours(Path(folder), keys["encoder"], keys["train"])
        theirs = PlainLoop(ours, keys["encoder"])
        compare_losses(ours, theirs)
        pair = [("ours", ours_step(ours)), ("theirs", theirs.step)]
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for step in range(1, 1 + WARM_UP_STEPS + num_steps):
            for name, do in pair:
                started = time.perf_counter()
                do(step)
                seconds[name].append(time.perf_counter() - started)
            pair.reverse()
        ours.engine.close()
    print(json.dumps(result({name: each[WARM_UP_STEPS:] for name, each in seconds.items()})))
    return 0


def result(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the row of the table from the seconds of each step, 16 windows each."""
    import torch
    import transformers

    rates = {name: 16 / statistics.median(values) for name, values in seconds.items()}
    ratios = [t / o for o, t in zip(seconds["ours"], seconds["theirs"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "name": "training_vs_plain_loop",
        "ours": round(rates["ours"], 2),
        "theirs": round(rates["theirs"], 2),
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "unit": "windows/s",
        "steps": len(ratios),
        "threads": torch.get_num_threads(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def build_ours(folder: Path, encoder: str, train: str) -> Any:
    """Prepare 2,000 questions and return our training, ready at step 0."""
    from qa_dist.cluster.pipeline import open_run
    from qa_dist.plan import make_plan, save_plan
    from qa_dist.prepare import elements, prepare_element
    from qa_dist.recipe_loading import load_recipe
    from qa_dist.run_dir import RunDir
    from qa_dist.training.engine import Engine, resolve_precision
    from qa_dist.training.loop import Training

    settings = [
        f"model.name={encoder}",
        f"sources.0.train={train}",
        "sources.0.dev=",
        "sources.0.dev_fraction=0.05",
        "sources.0.max_train_examples=2000",
        "sources.0.max_dev_examples=50",
        "train.batch_windows=16",
        "train.learning_rate=2e-4",
        "train.warmup_fraction=0.1",
        "train.min_micro_batches_per_step=1",
    ]
    recipe = load_recipe("squad1_bert", settings, ROOT / "configs" / "recipes")
    plan = make_plan(recipe, folder / "prepared")
    run = RunDir(folder / "run")
    run.root.mkdir()
    prepared = open_run(run, recipe, plan, plan.prepared(1, 1), is_fresh=False)
    save_plan(plan)
    for element in range(len(elements(prepared))):
        prepare_element(run, element)
    facts = json.loads(run.run_json.read_text())
    engine = Engine(resolve_precision("auto"))
    training = Training(run, recipe, prepared, engine, facts)
    training._lay_out(None)
    return training


def ours_step(training: Any) -> Any:
    """Return what does step s of our loop."""
    from qa_dist.training.optim import learning_rate

    def step(number: int) -> None:
        rate = learning_rate(number, training.num_steps, training.recipe.train)
        training.train_step(number, rate)

    return step


class PlainLoop:
    """The hand-written loop."""

    def __init__(self, ours: Any, encoder: str) -> None:
        import torch
        from transformers import AutoModelForQuestionAnswering

        self.torch, self.ours = torch, ours
        self.model = AutoModelForQuestionAnswering.from_pretrained(
            encoder, dtype=torch.float32, attention_probs_dropout_prob=0.0
        )
        head = ours.model.heads[0].qa_outputs
        with torch.no_grad():
            self.model.qa_outputs.weight.copy_(head.weight)
            self.model.qa_outputs.bias.copy_(head.bias)
        self.model.train()
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": 0.01},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=2e-4, fused=True)
        warmup = ours.num_steps // 10
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda s: min((s + 1) / warmup, (ours.num_steps - s) / ours.num_steps)
        )
        self.windows = [self._encode(w) for w in range(ours.train_split.num_windows)]

    def _encode(self, window: int) -> dict[str, Any]:
        """Return one window as lists, as a dataset would hold it."""
        from qa_dist.data.collate import collate

        batch = collate(self.ours.train_split, [window], self.ours.template, None)
        length = int(batch.lengths[0])
        return {
            "input_ids": batch.input_ids[0, :length],
            "token_type_ids": batch.token_type_ids[0, :length],
            "start": int(batch.starts[0]),
            "end": int(batch.ends[0]),
        }

    def batch(self, step: int) -> dict[str, Any]:
        """Pad the step's windows to their longest."""
        torch = self.torch
        rows = [self.windows[w] for w in self.ours.order.batch(step).tolist()]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([row["input_ids"] for row in rows], batch_first=True)
        return {
            "input_ids": ids,
            "token_type_ids": pad([row["token_type_ids"] for row in rows], batch_first=True),
            "attention_mask": (ids != 0).long(),
            "start_positions": torch.tensor([row["start"] for row in rows]),
            "end_positions": torch.tensor([row["end"] for row in rows]),
        }

    def step(self, number: int) -> None:
        """One update."""
        torch = self.torch
        with torch.autocast("cpu", torch.bfloat16, enabled=self.ours.engine.precision == "bf16"):
            loss = self.model(**self.batch(number)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)


def compare_losses(ours: Any, theirs: PlainLoop) -> None:
    """Check, before any timing, that both compute the same: start logits of one batch at the
    context, dropout off."""
    torch = theirs.torch
    from qa_dist.data.collate import collate

    ours.model.eval()
    theirs.model.eval()
    windows = ours.order.batch(0)
    batch = collate(ours.train_split, windows, ours.template, None)
    with torch.no_grad():
        mine, _ = ours.model(
            batch.input_ids, batch.token_type_ids, batch.attention_mask, batch.candidate_mask
        )
        inputs = theirs.batch(0)
        other = theirs.model(**inputs).start_logits
    width = min(mine.shape[1], other.shape[1])
    mask = batch.candidate_mask[:, :width]
    difference = (mine[:, :width][mask] - other[:, :width][mask]).abs().max()
    if difference > 1e-3:
        raise SystemExit(
            f"the two models differ by {difference:.2e} before any training: not the same work"
        )
    ours.model.train()
    theirs.model.train()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
