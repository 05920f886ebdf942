"""Row 11: logits to answers, n best and null odds, against transformers examples' utils_qa.

    python benchmarks/n_best.py [threads=2] [questions=2000] [runs=3] [windows=200]

The peer is what `postprocess_qa_predictions` of transformers' question-answering example does, in
our own words and step by step, as run_qa calls it for SQuAD 2.0: version_2_with_negative,
n_best_size 20, max_answer_length 30, threshold 0, no progress bar, no files written. It is given
`examples` and `features` as run_qa has them: datasets.Dataset objects, features made by `map` with
the fast tokenizer (384 tokens, padded, stride 128; offsets None off the context), and logits as
(features, 384) arrays. A second row, without a goal, gives it the same as Python lists: what is
left is the algorithm without Arrow.

Ours is what the evaluate stage does after the encoder: SpanHead.span_scores of each batch (its
hidden states are the logits; its linear layer, part of the model, is left out) and
SpanPredictor.predictions, to each question's n best texts with scores, null odds and decision.
Making the tensors and scoring EM and F1 aren't part of it, on either side.

Both take the same windows, which is checked token by token, and the same logits, as a trained
model's look: context N(-4, 2), 9 more where the answer starts and ends; question, separators and
padding N(-10, 1); CLS likewise, but N(6, 2) where the window holds no answer, and there is a
plausible one: two tokens with 9 more. (Where no span stands out the two may differ: CLS then takes
one of the peer's 20 best places, so ours sees one start more.) Before any time is taken each answer
must be the same text, each null odds the same to 1e-5 (float32: the peer subtracts start and end
one by one, ours their sum) and each decision. The n best lists must be the
same texts and scores wherever both define the same: questions of one window (the peer lists a span
again for each window that has it, ours once) whose CLS isn't among the 20 best starts or ends (the
peer's 20 best may be CLS or question tokens, ours can't).

Last row, without a goal or peer: gpu_evaluation's share of an evaluation's time that isn't the
encoder, here on the CPU with MiniLM's shape and `windows` questions. Other rows: seconds for all
questions; ratio above 1: ours is faster; goal >= 10.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from side_by_side import ROOT, Row, compared, in_turn, run_script
from utils_qa import MAX_ANSWER, N_BEST, Answers, postprocess

LENGTH, OVERLAP = 384, 128


def rows(
    threads: int = 2, questions: int = 2000, runs: int = 3, windows: int = 200
) -> Iterator[Row]:
    """Yield the rows."""
    import torch
    from inputs import encoder, squad_v2

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = squad_v2(folder, questions)
        case = Case(folder, encoder(folder / "encoder", "tiny"), data)
        checked = case.check()
        kind = f"n best and null decision, {len(case.examples):,} questions"
        note = f"n best lists compared for {checked:,}" + (data.note and f", {data.note}")
        libraries = ("torch", "numpy", "datasets", "transformers")
        seconds = in_turn(case.ours, case.theirs, runs)
        yield compared(kind, seconds, ">= 10", libraries=libraries, note=note)
        case.as_lists()
        seconds = in_turn(case.ours, case.theirs, runs)
        yield compared(f"{kind}, peer without Arrow", seconds, "", libraries=libraries, note=note)
    if windows:
        import gpu_evaluation

        for row in gpu_evaluation.rows("cpu", "minilm", 1, windows):
            yield replace(row, name=f"{row.name}, CPU", goal="")


class Case:
    """One prepared shard, the peer's features of the same windows, and logits for both."""

    def __init__(self, folder: Path, model: Path, data: Any) -> None:
        import numpy as np

        self.predictor = prepared(folder, model, data)
        self.shard = self.predictor.shard
        self.examples, self.features = peer_inputs(model, data.dev)
        self.logits = self._make_logits(np.random.default_rng(0))
        self.batches = self._make_batches()

    def _make_logits(self, rng: Any) -> Any:
        """Return each window's start and end logits, (windows, LENGTH, 2) float32."""
        import numpy as np

        shard = self.shard
        logits = rng.normal(-10, 1, (shard.num_windows, LENGTH, 2)).astype(np.float32)
        for window, some in enumerate(logits):
            first, last = int(shard["window_from"][window]), int(shard["window_to"][window])
            at = int(shard["window_length"][window]) - 1 - (last - first)
            some[at : at + last - first] = rng.normal(-4, 2, (last - first, 2))
            if shard["window_kind"][window] == 0:
                some[at + int(shard["window_start"][window]) - first, 0] += 9
                some[at + int(shard["window_end"][window]) - first, 1] += 9
            else:
                some[0] = rng.normal(6, 2, 2)
                first = at + int(rng.integers(last - first - 1))
                some[first, 0] += 9
                some[first + 1, 1] += 9
        return logits

    def _make_batches(self) -> list[tuple[list[int], Any, Any]]:
        """Return numbers, tensors and logits of the windows, as evaluation batches them."""
        import torch

        from qa_dist.data.collate import collate
        from qa_dist.evaluation.forward import batches_by_length

        if len(self.features) != self.shard.num_windows:
            raise SystemExit(f"{len(self.features)} features, {self.shard.num_windows} windows")
        ids, mine = self.features["input_ids"], self.predictor
        batches = []
        for windows in batches_by_length(self.shard["window_length"], mine.settings.batch_tokens):
            batch = collate(mine.data, windows, mine.template, mine.null_class, 1)
            for row, window in enumerate(windows):
                size = int(batch.lengths[row])
                if batch.input_ids[row, :size].tolist() != ids[window][:size]:
                    raise SystemExit(f"window {window}: the peer's feature has other tokens")
            width = batch.input_ids.shape[1]
            batches.append((windows, batch, torch.from_numpy(self.logits[windows, :width])))
        return batches

    def ours(self) -> Answers:
        """Return the answers, our way."""
        import torch

        head = self.predictor.forward.head
        scored = (
            (windows, batch, head.span_scores(hidden, batch, N_BEST, MAX_ANSWER))
            for windows, batch, hidden in self.batches
        )
        answers: Answers = {}, {}, {}
        with torch.inference_mode():
            for _, facts, found in self.predictor.predictions(scored):
                name, odds = facts["id"], found.null_odds
                answers[0][name] = "" if odds > 0 else found.text
                answers[1][name] = [
                    {"text": text, "score": score}
                    for text, score in zip(found.texts, found.scores, strict=True)
                ]
                answers[2][name] = odds
        return answers

    def theirs(self) -> Answers:
        """The same, the peer's way."""
        starts, ends = self.logits[:, :, 0], self.logits[:, :, 1]
        return postprocess(self.examples, self.features, starts, ends)

    def as_lists(self) -> None:
        """Give the peer lists of dicts from now on."""
        self.features = Rows(self.features.to_list())
        self.examples = Rows(self.examples.to_list())

    def check(self) -> int:
        """Compare the answers; return for how many questions also the n best lists."""
        import numpy as np

        (texts, n_best, odds), (their_texts, their_best, their_odds) = self.ours(), self.theirs()
        if texts.keys() != their_texts.keys():
            raise SystemExit("not the same questions")
        if set(texts.values()) == {""} or "" not in texts.values():
            raise SystemExit("the null decision is always the same")
        for name, wanted in their_texts.items():
            # What would be answered, whatever the odds.
            best = next(each["text"] for each in their_best[name] if each["text"])
            found = texts[name], n_best[name][0]["text"]
            if found != (wanted, best) or abs(odds[name] - their_odds[name]) > 1e-5:
                expected = wanted, best, their_odds[name]
                raise SystemExit(f"{name}: expected {expected}, found {(*found, odds[name])}")
        windows: dict[str, list[int]] = defaultdict(list)
        for window, name in enumerate(self.features["example_id"]):
            windows[name].append(window)
        top = np.argsort(self.logits, axis=1)[:, -N_BEST:]
        checked = 0
        for name, some in windows.items():
            if len(some) > 1 or (top[some[0]] == 0).any():
                continue
            kept = [each for each in their_best[name] if each["text"]]
            wanted = [(each["text"], each["start_logit"] + each["end_logit"]) for each in kept]
            mine = [(each["text"], each["score"]) for each in n_best[name]][: len(wanted)]
            is_same = [text for text, _ in wanted] == [text for text, _ in mine]
            far = max(abs(a[1] - b[1]) for a, b in zip(wanted, mine, strict=False))
            if not is_same or far > 1e-5:
                raise SystemExit(f"{name}: expected {wanted}, found {mine}")
            checked += 1
        return checked


class Rows(list[dict[str, Any]]):
    """A dataset in memory: rows by number, columns by name."""

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def prepared(folder: Path, model: Path, data: Any) -> Any:
    """Return what predicts the dev shard, with a head that gives hidden states as logits."""
    import torch

    from qa_dist.cluster.open_run import open_run
    from qa_dist.data.prepared import read_prepared
    from qa_dist.evaluation.forward import Forward
    from qa_dist.evaluation.spans import SpanPredictor
    from qa_dist.models.span import SpanHead
    from qa_dist.plan import make_plan, save_plan
    from qa_dist.prepare import prepare_element
    from qa_dist.recipe_loading import load_recipe
    from qa_dist.run_dir import RunDir

    settings = [
        f"model.name={model}",
        f"sources.0.train={data.train}",
        f"sources.0.dev={data.dev}",
        "sources.0.max_train_examples=10",
        f"data.max_length_tokens={LENGTH}",
        f"data.window_overlap_tokens={OVERLAP}",
        f"evaluation.n_best={N_BEST}",
        f"evaluation.max_answer_tokens={MAX_ANSWER}",
    ]
    recipe = load_recipe("squad1_bert", settings, ROOT / "configs" / "recipes")
    plan = make_plan(recipe, folder / "prepared")
    run = RunDir(folder / "run")
    run.root.mkdir()
    made = open_run(run, recipe, plan, plan.prepared(1, 1), is_fresh=False)
    save_plan(plan)
    for element in range(len(made.elements())):
        prepare_element(run, element)
    head: Any = SpanHead(2, 0)
    head.qa_outputs = torch.nn.Identity()
    only_head: Any = torch.nn.Module()
    only_head.heads = [head]
    forward = Forward(only_head, 0, torch.device("cpu"), "fp32")
    return SpanPredictor(recipe, recipe.sources[0], forward, read_prepared(run).open("dev"))


def peer_inputs(model: Path, dev: Path) -> tuple[Any, Any]:
    """Return run_qa's `eval_examples` and `eval_dataset`."""
    import json

    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    examples = Dataset.from_list(
        [
            {"id": qa["id"], "question": qa["question"], "context": part["context"]}
            for article in json.loads(dev.read_text())["data"]
            for part in article["paragraphs"]
            for qa in part["qas"]
        ]
    )

    def features(some: dict[str, list[Any]]) -> Any:
        """run_qa.py's prepare_validation_features."""
        made = tokenizer(
            [question.lstrip() for question in some["question"]],
            some["context"],
            truncation="only_second",
            max_length=LENGTH,
            stride=OVERLAP,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        of = made.pop("overflow_to_sample_mapping")
        made["example_id"] = [some["id"][number] for number in of]
        made["offset_mapping"] = [
            [place if part == 1 else None for place, part in zip(places, parts, strict=True)]
            for i, places in enumerate(made["offset_mapping"])
            for parts in [made.sequence_ids(i)]
        ]
        return made

    return examples, examples.map(features, batched=True, remove_columns=examples.column_names)


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
