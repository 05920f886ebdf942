"""Training windows/s against Hugging Face's Trainer, on windows of SQuAD 1.1's real lengths.

    python benchmarks/training.py [threads=2] [runs=4] [device=cpu] [shape=minilm] [batch=12]
        [questions=2000] [only=padded]

The peer is `transformers.Trainer` with `BertForQuestionAnswering` (sdpa attention, its default) and
`TrainingArguments`' defaults (fused AdamW, clipping at 1, linear decay, no workers), batches of 12
windows as in the README of transformers' own run_qa, nothing logged or saved. Four rows:

  padded, no dropout         run_qa's default: each window padded to 384, default_data_collator
  padded, default dropout    the same with BERT's own dropout, 0.1 of hidden states and attention;
                             ours with a recipe's default, hidden 0.1 and attention 0
  grouped by length          train_sampling_strategy="group_by_length" and DataCollatorWithPadding,
                             with either kind of dropout

Both train from the same weights, in the same precision (bf16 where the processor has it, else
fp32) and threads, on the same windows and labels of some questions; ours as jobs/train.py does
(batches of like length; on a GPU packed), its whole step with making the batch, no scalars written.
Start logits of a batch, at the tokens where an answer may start, are compared before any time is
taken. The Trainer's whole train() goes on in a thread of its own and waits after each step for its
turn; a step's time is from there to the next end of a step, with fetching its batch. A run is some
steps of each side in turn (on a GPU 16 steps a turn). Of an epoch's batches, as each side's own
sampler made them, a run takes some at even distances in length, so that both see short and long
ones alike; what length still differs is made good by the run's number of real tokens (for the
padded peer a window costs the same whatever its length).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import inputs
from side_by_side import ROOT, Row, compared, run_script

LENGTH = 384
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who isn't at turn doesn't spin


def rows(
    threads: int = 2,
    runs: int = 4,
    device: str = "cpu",
    shape: str = "minilm",
    batch: int = 12,
    questions: int = 2000,
    only: str = "",
) -> Iterator[Row]:
    """Measure each row; `only`: those with this in their name."""
    import torch

    torch.set_num_threads(threads)
    is_cpu = device == "cpu"
    if is_cpu and torch.cuda.is_available():
        raise SystemExit(
            "device=cpu: there is a GPU, which ours would use; CUDA_VISIBLE_DEVICES=''"
        )
    grouped_goal, dropout_goal = (">= 1.1", ">= 4") if is_cpu else (">= 1.3", ">= 2")
    kinds = (
        ("padded, no dropout", True, 0.0, ">= 2", max(1, runs // 2)),
        ("padded, default dropout", True, 0.1, dropout_goal, max(1, runs // 2)),
        ("grouped by length, no dropout", False, 0.0, grouped_goal, runs),
        ("grouped by length, default dropout", False, 0.1, grouped_goal, max(1, runs // 2)),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, encoder = inputs.squad(folder, questions), inputs.encoder(folder / "encoder", shape)
        for number, (kind, is_padded, dropout, goal, times) in enumerate(kinds):
            if only in kind:
                settings = () if dropout else ("model.hidden_dropout=0.0",)
                ours = Ours(
                    folder / str(number), encoder, data, batch, *settings, questions=questions
                )
                theirs = Peer(ours, encoder, is_padded, dropout)
                yield row(ours, theirs, kind, goal, times)
                ours.engine.close()


def row(ours: Ours, theirs: Peer, name: str, goal: str, runs: int) -> Row:
    """Compare the two, time them in turn, return the row."""
    compare(ours, theirs)
    # About as many seconds on either side, and in one turn no more than a GPU needs to keep busy.
    counts, turn = (64, 64), 16
    if ours.device.type == "cpu":
        has_dropout = theirs.model.config.hidden_dropout_prob > 0
        theirs_count = {(0, 0): 8, (0, 1): 4, (1, 0): 4, (1, 1): 2}[theirs.is_padded, has_dropout]
        counts, turn = (8, theirs_count), 1
    ours.start(counts[0])
    theirs.start(counts[1], runs, turn)
    seconds: tuple[list[float], list[float]] = ([], [])
    places = [((k + 0.5) / n, side) for side, n in enumerate(counts) for k in range(n // turn)]
    for _ in range(runs):
        sums = [0.0, 0.0]
        for _, side in sorted(places):
            sums[side] += (ours, theirs)[side].steps(turn)
        for values, total, each in zip(seconds, sums, (ours, theirs), strict=True):
            values.append(total / each.windows_per_run)
    theirs.finish()
    note = f"{theirs.batch_windows} windows a step, {ours.engine.precision}"
    if ours.training.model.is_packed:
        note += ", packed"
    return compared(
        f"training, {name}",
        seconds,
        goal,
        work=1.0,
        unit="windows/s",
        libraries=("torch", "transformers", "accelerate"),
        note=", ".join(filter(None, (note, ours.note))),
    )


class Ours:
    """Our training of one run, ready at step 0."""

    def __init__(
        self,
        folder: Path,
        encoder: Path,
        data: inputs.Inputs,
        batch: int,
        *more: str,
        questions: int = 2000,
    ) -> None:
        from qa_dist.models.attention import resolve_packing
        from qa_dist.training.engine import Engine, resolve_precision
        from qa_dist.training.loop import Training

        run, recipe, prepared = prepare(folder, encoder, data, batch, more, questions)
        self.engine = Engine(resolve_precision("auto"))
        packing, why = resolve_packing("auto", recipe.model, self.engine.precision)
        if why:
            print(f"not packed: {why}", file=sys.stderr)
        facts = json.loads(run.run_json.read_text()) | {"packing": "on" if packing else "off"}
        self.training: Any = Training(run, recipe, prepared, self.engine, facts)
        self.training._lay_out(None)
        self.device, self.note = self.engine.device, data.note
        self.windows = self.training.batches.sources[0]
        self.lengths = self.windows.train_split.lengths().astype(int)
        """Tokens of each window: (windows,)."""

    def clock(self) -> float:
        """Return the time once the device has done all it was given."""
        if self.device.type != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self, count: int) -> None:
        """Choose a run's steps, and do one that isn't counted."""
        order = self.windows.order
        every = range(order.steps_per_epoch - 1)  # the last batch may be short
        tokens = [int(self.lengths[order.batch(step)].sum()) for step in every]
        chosen = evenly(tokens, count)
        self.windows_per_run = sum(tokens[step] for step in chosen) / float(self.lengths.mean())
        """Of mean length."""
        self.training.train_step(chosen[0], 1e-5)
        self._next = itertools.cycle(chosen)

    def steps(self, count: int) -> float:
        """Do so many steps; return their seconds."""
        started = self.clock()
        for step in itertools.islice(self._next, count):
            self.training.train_step(step, 1e-5)
        return self.clock() - started


def prepare(
    folder: Path,
    encoder: Path,
    data: inputs.Inputs,
    batch: int,
    more: Sequence[str],
    train_questions: int = 2000,
    dev_questions: int = 50,
) -> tuple[Any, Any, Any]:
    """Prepare so many questions in this process, as a launch would; return run, recipe and data."""
    from qa_dist.attempts import new_attempt
    from qa_dist.cluster.open_run import open_run
    from qa_dist.plan import make_plan, save_plan
    from qa_dist.prepare import prepare_element
    from qa_dist.recipe_loading import load_recipe
    from qa_dist.run_dir import RunDir

    settings = [
        f"model.name={encoder}",
        f"sources.0.train={data.train}",
        f"sources.0.max_train_examples={train_questions}",
        f"sources.0.max_dev_examples={dev_questions}",
        f"sources.0.dev={data.dev}",
        f"data.max_length_tokens={LENGTH}",
        f"train.batch_windows={batch}",
        f"train.micro_batch_tokens={batch * LENGTH}",
        "train.min_micro_batches_per_step=1",
        "train.validation_windows=0",
        *more,
    ]
    recipe = load_recipe("squad1_bert", settings, ROOT / "configs" / "recipes")
    plan = make_plan(recipe, folder / "prepared")
    run = RunDir(folder / "run")
    run.root.mkdir(parents=True)
    prepared = open_run(run, recipe, plan, plan.prepared(1, 1), is_fresh=False)
    save_plan(plan)
    for element in range(len(prepared.elements())):
        prepare_element(run, element)
    new_attempt(run)
    return run, recipe, prepared


def evenly(tokens: Sequence[int], size: int) -> list[int]:
    """Return the numbers of `size` batches, at even distances when sorted by their tokens; short
    and long ones mixed."""
    by_size = sorted(range(len(tokens)), key=tokens.__getitem__)
    chosen = [by_size[int((k + 0.5) * len(by_size) / size)] for k in range(size)]
    random.Random(0).shuffle(chosen)
    return chosen


class Peer:
    """Transformers' Trainer on the same windows."""

    def __init__(self, ours: Ours, encoder: Path, is_padded: bool, dropout: float) -> None:
        from transformers import (
            AutoTokenizer,
            BertForQuestionAnswering,
            DataCollatorWithPadding,
            Trainer,
            TrainingArguments,
            default_data_collator,
        )

        self.ours, self.is_padded = ours, is_padded
        split = ours.windows.train_split
        self.features = [self._feature(w) for w in range(split.num_windows)]
        self.model = BertForQuestionAnswering.from_pretrained(
            encoder, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        self.model.bert.load_state_dict(ours.training.model.encoder.state_dict())
        self.model.qa_outputs.load_state_dict(ours.training.model.heads[0].qa_outputs.state_dict())
        self.settings = TrainingArguments(
            output_dir=str(encoder / "out"),
            per_device_train_batch_size=ours.windows.order.batch_windows,
            train_sampling_strategy="random" if is_padded else "group_by_length",
            use_cpu=ours.device.type == "cpu",
            bf16=ours.engine.precision == "bf16",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        collator: Any = default_data_collator if is_padded else DataCollatorWithPadding(tokenizer)
        self.batch_windows = self.settings.per_device_train_batch_size
        self.chosen: list[int] = []
        peer = self

        class InOurOrder(Trainer):  # type: ignore[misc,valid-type]
            """Takes those batches of the sampler's that a block is made of."""

            def _get_train_sampler(self, train_dataset: Any = None) -> Any:
                sampler = super()._get_train_sampler(train_dataset)
                return peer.chosen or sampler

        self.trainer = InOurOrder(
            model=self.model,
            args=self.settings,
            train_dataset=self.features,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[waiting_for(self)],
        )
        self.my_turn, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.turn = 1
        self.thread = threading.Thread(target=self._train, daemon=True)

    def _feature(self, window: int) -> dict[str, Any]:
        """Return one window as run_qa's datasets hold it: lists."""
        from qa_dist.data.collate import collate

        source = self.ours.windows
        batch = collate(source.train_split, [window], source.template, None, pad_multiple=1)
        length = int(batch.lengths[0])
        pad = LENGTH - length if self.is_padded else 0
        return {
            "input_ids": batch.input_ids[0].tolist() + [0] * pad,
            "token_type_ids": batch.token_type_ids[0].tolist() + [0] * pad,
            "attention_mask": [1] * length + [0] * pad,
            "start_positions": int(batch.starts[0]),
            "end_positions": int(batch.ends[0]),
        }

    def _epoch(self) -> list[list[int]]:
        """Return the window numbers of an epoch's whole batches, as its own sampler draws them."""
        import torch

        torch.manual_seed(0)
        order = list(self.trainer._get_train_sampler())
        size = self.batch_windows
        return [order[at : at + size] for at in range(0, len(order) - size + 1, size)]

    def start(self, count: int, runs: int, turn: int) -> None:
        """Choose a run's batches, begin to train, and do a step that isn't counted."""
        lengths, epoch = self.ours.lengths, self._epoch()
        tokens = [int(lengths[batch].sum()) for batch in epoch]
        chosen = evenly(tokens, count)
        self.windows_per_run = float(count * self.batch_windows)
        if not self.is_padded:
            self.windows_per_run = sum(tokens[k] for k in chosen) / float(lengths.mean())
        self.chosen = [w for k in (chosen[0], *chosen * runs) for w in epoch[k]]
        self.settings.max_steps, self.turn = 1 + count * runs, turn
        self.thread.start()
        self._wait()

    def _train(self) -> None:
        try:
            self.trainer.train()
        finally:
            self.done.release()

    def _wait(self) -> None:
        self.done.acquire()
        if not self.thread.is_alive():
            raise SystemExit("the Trainer failed: see above")

    def steps(self, count: int) -> float:
        """Let it do a turn, of so many steps; return their seconds."""
        assert count == self.turn
        started = self.ours.clock()
        self.my_turn.release()
        self._wait()
        return self.ours.clock() - started

    def finish(self) -> None:
        """Let train() return."""
        self.my_turn.release()
        self.thread.join()


def waiting_for(peer: Peer) -> Any:
    """Return a callback that stops after the first step and each turn until the next."""
    from transformers import TrainerCallback

    class Waiting(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (state.global_step - 1) % peer.turn == 0:
                peer.done.release()
                peer.my_turn.acquire()

    return Waiting()


def compare(ours: Ours, theirs: Peer) -> None:
    """Check that both compute the same: start logits of one batch, dropout off."""
    import torch

    from qa_dist.data.collate import collate

    source = ours.windows
    windows = [int(w) for w in source.order.batch(0)]
    batch = collate(source.train_split, windows, source.template, None).to(ours.device)
    rows = theirs.trainer.data_collator([theirs.features[w] for w in windows])
    inputs_ = {
        name: value.to(ours.device) for name, value in rows.items() if "position" not in name
    }
    for key, positions in (("start_positions", batch.starts), ("end_positions", batch.ends)):
        if rows[key].tolist() != positions.tolist():
            raise SystemExit(f"{key} differ: not the same work")
    model, other = ours.training.model.eval(), theirs.model.to(ours.device).eval()
    with torch.no_grad(), ours.engine.autocast():
        start, _ = model.heads[0](model.hidden(batch).float(), batch)
        logits = other(**inputs_).start_logits
    width = min(start.shape[1], logits.shape[1])
    mask = batch.candidate_mask[:, :width]
    difference = float((start[:, :width] - logits[:, :width].float())[mask].abs().max())
    limit = 1e-3 if ours.engine.precision == "fp32" else 0.05
    if not difference <= limit * max(1.0, float(logits.abs().max())) or math.isnan(difference):
        raise SystemExit(f"start logits differ by {difference:.1e}: not the same work")
    model.train()
    other.train()


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
