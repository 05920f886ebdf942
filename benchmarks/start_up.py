"""How long a user waits from the start of a process until the first training step is done.

    python benchmarks/start_up.py [threads=2] [runs=3] [launchers=accelerate,deepspeed] [--json]

A tiny BERT (2 layers, 32 hidden) on prepared data; batch 8, fp32, no dropout, one process, CPU.

* Ours: `python jobs/train.py run=RUN`. Everything is in it: finding where the run stands, hashing
  the prepared data, and the lock. A rank on SLURM does the same, started by srun, not a shell,
  with no launcher in between.
* Theirs: PEER below, a plain loop as Accelerate's and transformers' documentation have it, on a
  dataset that was tokenized, and saved to disk, beforehand; as `accelerate launch --cpu
  --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no PEER`, and as
  `deepspeed --num_accelerators 1 PEER` with DS_ACCELERATOR=cpu. Under `deepspeed` it is the same
  loop without deepspeed.initialize, which would take longer. Importing `datasets` is 0.8 s of
  either: both documentations' examples read their data by it.

Both get the same weights and the windows of our first step. Each prints a line when its first step
is done; that is when the clock stops. Before times are taken, both losses are computed a second
time, ours by their model and theirs by ours. Goals: theirs takes 1.5 times as long, and twice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from inputs import encoder, squad
from side_by_side import ROOT, Row, compared, in_turn, run_script

BATCH = 8
PEER = """
import sys

import torch
from accelerate import Accelerator
from datasets import load_from_disk
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_scheduler,
)

folder = sys.argv[-1]
accelerator = Accelerator(cpu=True)
tokenizer = AutoTokenizer.from_pretrained(folder + "/model")
model = AutoModelForQuestionAnswering.from_pretrained(folder + "/model")
collator = DataCollatorWithPadding(tokenizer)
loader = DataLoader(load_from_disk(folder + "/windows"), batch_size=8, collate_fn=collator)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5)
schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=len(loader))
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
model.train()
for step, batch in enumerate(loader, start=1):
    loss = model(**batch).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}", flush=True)
"""


def rows(threads: int = 2, runs: int = 3, launchers: str = "accelerate,deepspeed") -> Iterator[Row]:
    """Yield one row for each launcher."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = make_inputs(folder)
        (folder / "peer.py").write_text(PEER)
        programs = Path(sys.executable).parent
        peer = [str(folder / "peer.py"), str(folder)]
        plain = "--cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
        peers = {
            "accelerate": ([str(programs / "accelerate"), "launch", *plain.split(), *peer], 1.5),
            "deepspeed": ([str(programs / "deepspeed"), "--num_accelerators", "1", *peer], 2.0),
        }
        peers = {name: peer for name, peer in peers.items() if name in launchers.split(",")}
        ours = [sys.executable, str(ROOT / "jobs" / "train.py"), f"run={folder / 'run'}"]

        def start_ours() -> float:
            shutil.rmtree(folder / "run", ignore_errors=True)
            shutil.copytree(folder / "fresh", folder / "run")
            return first_loss(ours)

        losses = [start_ours(), *(first_loss(command) for command, _ in peers.values())]
        wanted = [expected[0], *[expected[1]] * len(peers)]
        if any(abs(a - b) > 2e-3 for a, b in zip(losses, wanted, strict=True)):
            raise SystemExit(f"not the same work: losses {losses}, expected {wanted}")
        for launcher, (command, goal) in peers.items():
            yield compared(
                f"start of the process to the end of the first step, against {launcher}",
                in_turn(start_ours, lambda command=command: first_loss(command), runs),
                f">= {goal}",
                libraries=("torch", "transformers", "accelerate", launcher),
            )


def first_loss(command: Sequence[str]) -> float:
    """Start a training; return the loss of its first step as soon as it says it, and end it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        assert process.stdout
        try:
            for line in process.stdout:
                if "step 1: loss " in line:
                    return float(line.partition("loss ")[2].split()[0].strip(","))
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of them have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        said = log.read()[-3000:]
    raise SystemExit(f"{said}{' '.join(command)}: ended without a first step")


def make_inputs(folder: Path) -> tuple[float, float]:
    """Write a run ready to train (folder/fresh) and the peer's model and windows; return the first
    step's loss of ours by their model, and of theirs by our model."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    from qa_dist.attempts import new_attempt
    from qa_dist.cluster.open_run import open_run
    from qa_dist.models import build_model
    from qa_dist.plan import make_plan, save_plan
    from qa_dist.prepare import prepare_element
    from qa_dist.recipe_loading import load_recipe
    from qa_dist.run_dir import RunDir
    from qa_dist.training.batches import Batches
    from qa_dist.training.engine import Engine

    data = squad(folder)
    own = encoder(
        folder / "model", "tiny", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    settings = [
        f"model.name={own}",
        "model.hidden_dropout=0",
        f"sources.0.train={data.train}",
        f"sources.0.dev={data.dev}",
        "sources.0.max_train_examples=400",
        "sources.0.max_dev_examples=20",
        f"train.batch_windows={BATCH}",
        "train.min_micro_batches_per_step=1",
        "train.precision=fp32",
        "train.log_every_steps=1",
    ]
    recipe = load_recipe("squad1_bert", settings, ROOT / "configs" / "recipes")
    plan = make_plan(recipe, folder / "prepared")
    run = RunDir(folder / "run")
    run.root.mkdir()
    prepared = open_run(run, recipe, plan, plan.prepared(1, 1), is_fresh=False)
    save_plan(plan)
    for element in range(len(prepared.elements())):
        prepare_element(run, element)
    new_attempt(run)
    run.root.rename(folder / "fresh")

    engine = Engine("fp32")
    batches = Batches(recipe, prepared, engine)
    ours: Any = build_model(recipe, batches.classes).eval()
    (source,), (windows,) = batches.sources, batches.step(0).micro_batches
    batch = source.collate(source.train_split, windows)
    engine.close()
    theirs: Any = AutoModelForQuestionAnswering.from_pretrained(own).eval()
    theirs.qa_outputs.load_state_dict(ours.heads[0].qa_outputs.state_dict())
    theirs.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(own).save_pretrained(folder / "model")
    inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
    inputs["attention_mask"] = (
        torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
    ).long()
    features = []
    for row, length in enumerate(batch.lengths.tolist()):
        feature = {key: value[row, :length].tolist() for key, value in inputs.items()}
        place = {"start_positions": int(batch.starts[row]), "end_positions": int(batch.ends[row])}
        features.append(feature | place)
    Dataset.from_list(features * 4).save_to_disk(folder / "windows")

    def mean_loss(starts: torch.Tensor, ends: torch.Tensor) -> float:
        pairs = ((starts, batch.starts), (ends, batch.ends))
        return sum(float(torch.nn.functional.cross_entropy(*pair)) for pair in pairs) / 2

    with torch.no_grad():
        found = theirs(**inputs)
        outside = ~batch.candidate_mask  # ours never looks there
        by_theirs = mean_loss(
            found.start_logits.masked_fill(outside, -1e9),
            found.end_logits.masked_fill(outside, -1e9),
        )
        logits = ours.heads[0].qa_outputs(ours.hidden(batch)).float()
        by_ours = mean_loss(logits[..., 0], logits[..., 1])
    return by_theirs, by_ours


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
