"""Row 11: logits to answers, n best and null odds, against transformers examples' utils_qa.

    python benchmarks/n_best.py [questions=2000] [runs=3]

The peer is `postprocess_qa_predictions` of transformers' question-answering example (null answers
on, n_best_size 20, max_answer_length 30, threshold 0), in our own words but step by step as users
have it: for each question and window the 20 best starts and ends by argsort, each pair of them
checked in Python, the lowest null score, the best 20 as texts, a softmax over them, the null
decision. Ours is the evaluate stage's own way from logits to rows (SpanPredictor and
SpanHead.span_scores), which also collates the batches and scores EM and F1: more than the peer
does. Both take the same windows of SQuAD (max 384 tokens, overlap 128) and the same logits: noise,
high where the answer is, low at the question as a trained model has them. Answers and null odds are
compared first and must be the same. Seconds for all questions; ratio above 1: ours is faster; goal
>= 10.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from side_by_side import ROOT, Row, compared, in_turn, run_script

N_BEST, MAX_ANSWER = 20, 30


def rows(questions: int = 2000, runs: int = 3) -> Iterator[Row]:
    """Yield the one row."""
    from inputs import encoder, squad

    with tempfile.TemporaryDirectory() as folder:
        files = squad(Path(folder))
        case = Case(Path(folder), encoder(Path(folder) / "encoder", "tiny"), files, questions)
        found, expected = case.ours(), case.theirs()
        for name, (text, odds) in expected.items():
            if found[name][0] != text or abs(found[name][1] - odds) > 1e-4:
                raise SystemExit(f"{name}: expected {text!r} {odds}, found {found[name]}")
        seconds = in_turn(case.ours, case.theirs, runs)
        name = f"n best and null decision, {len(expected):,} questions"
        yield compared(name, seconds, ">= 10", libraries=("torch", "numpy"), note=files.note)


class Case:
    """One prepared shard and the logits of its windows."""

    def __init__(self, folder: Path, model: Path, files: Any, questions: int) -> None:
        import numpy as np
        import torch

        from qa_dist.cluster.open_run import open_run
        from qa_dist.data.prepared import read_prepared
        from qa_dist.evaluation.spans import SpanPredictor
        from qa_dist.models.span import SpanHead
        from qa_dist.plan import make_plan, save_plan
        from qa_dist.prepare import elements, prepare_element
        from qa_dist.recipe_loading import load_recipe
        from qa_dist.run_dir import RunDir

        settings = [
            f"model.name={model}",
            f"sources.0.train={files.train}",
            f"sources.0.dev={files.dev}",
            "sources.0.max_train_examples=10",
            f"sources.0.max_dev_examples={questions}",
            f"evaluation.n_best={N_BEST}",
            f"evaluation.max_answer_tokens={MAX_ANSWER}",
        ]
        recipe = load_recipe("squad1_bert", settings, ROOT / "configs" / "recipes")
        plan = make_plan(recipe, folder / "prepared")
        run = RunDir(folder / "run")
        run.root.mkdir()
        prepared = open_run(run, recipe, plan, plan.prepared(1, 1), is_fresh=False)
        save_plan(plan)
        for element in range(len(elements(prepared))):
            prepare_element(run, element)
        self.data = read_prepared(run).open("dev")
        self.shard = self.data.shards[0]
        head = SpanHead(2, 0)
        with torch.no_grad():  # the hidden states are the logits
            head.qa_outputs.weight.copy_(torch.eye(2))
            head.qa_outputs.bias.zero_()
        self.logits = self._make_logits(np.random.default_rng(0))
        predictor = SpanPredictor(recipe, recipe.sources[0], _Given(head, self), self.data)
        self.predictor = predictor
        self.features = [self._feature(window) for window in range(self.shard.num_windows)]

    def _make_logits(self, rng: Any) -> list[Any]:
        """Return each window's start and end logits, (tokens, 2) float32."""
        shard, found = self.shard, []
        for window in range(shard.num_windows):
            size = int(shard["window_length"][window])
            first = int(shard["window_from"][window])
            count = int(shard["window_to"][window]) - first
            logits = rng.normal(0, 2, (size, 2)).astype("float32")
            at = size - 1 - count
            logits[1:at] -= 30
            logits[-1] -= 30
            if shard["window_kind"][window] == 0:
                logits[at + int(shard["window_start"][window]) - first, 0] += 6
                logits[at + int(shard["window_end"][window]) - first, 1] += 6
            found.append(logits)
        return found

    def _feature(self, window: int) -> tuple[Any, list[tuple[int, int] | None]]:
        """Return a window's logits and offsets (None off the context), as datasets hold them."""
        shard, logits = self.shard, self.logits[window]
        first, last = int(shard["window_from"][window]), int(shard["window_to"][window])
        context = int(shard["example_context"][shard["window_example"][window]])
        starts, ends = shard.char_spans(context)
        spans = list(zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True))
        before: list[tuple[int, int] | None] = [None] * (len(logits) - 1 - len(spans))
        return logits, [*before, *spans, None]

    def ours(self) -> dict[str, tuple[str, float]]:
        """Return answer and null odds by question id, by way of the rows."""
        rows = [row for _, row in self.predictor.rows()]
        return {r["id"]: ("" if r["null_odds"] > 0 else r["text"], r["null_odds"]) for r in rows}

    def theirs(self) -> dict[str, tuple[str, float]]:
        """The same, the plain way."""
        windows: dict[int, list[int]] = {}
        for window, example in enumerate(self.shard["window_example"].tolist()):
            windows.setdefault(example, []).append(window)
        return {
            self.shard.example(example)["id"]: plain_answer(
                [self.features[window] for window in some],
                self.shard.context_text(int(self.shard["example_context"][example])),
            )
            for example, some in windows.items()
        }


class _Given:
    """In a model's place: hidden states that are there already."""

    pad_multiple = 1

    def __init__(self, head: Any, case: Case) -> None:
        import torch

        self.head, self.case, self.device = head, case, torch.device("cpu")
        self._order: Iterator[list[int]] = iter(())

    def hidden(self, batch: Any) -> Any:
        """Return the batch's logits, padded: the windows come in the order of `rows()`."""
        import numpy as np
        import torch

        from qa_dist.evaluation.forward import batches_by_length

        some = next(self._order, None)
        if some is None:
            lengths = self.case.shard["window_length"]
            tokens = self.case.predictor.settings.batch_tokens
            self._order = iter(list(batches_by_length(lengths, tokens)))
            some = next(self._order)
        values = np.zeros((*batch.input_ids.shape, 2), np.float32)
        for row, window in enumerate(some):
            logits = self.case.logits[window]
            values[row, : len(logits)] = logits
        return torch.from_numpy(values)


def plain_answer(features: list[Any], context: str) -> tuple[str, float]:
    """Return the answer and the null odds of one question, as utils_qa finds them."""
    import numpy as np

    null: dict[str, Any] | None = None
    found: list[dict[str, Any]] = []
    for logits, offsets in features:
        starts, ends = logits[:, 0], logits[:, 1]
        score = starts[0] + ends[0]
        if null is None or null["score"] > score:
            null = {"offsets": (0, 0), "score": score, "start": starts[0], "end": ends[0]}
        best_starts = np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist()
        best_ends = np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist()
        for start in best_starts:
            for end in best_ends:
                if start >= len(offsets) or end >= len(offsets):
                    continue
                if offsets[start] is None or offsets[end] is None:
                    continue
                if end < start or end - start + 1 > MAX_ANSWER:
                    continue
                found.append(
                    {
                        "offsets": (offsets[start][0], offsets[end][1]),
                        "score": starts[start] + ends[end],
                        "start": starts[start],
                        "end": ends[end],
                    }
                )
    assert null is not None
    found.append(null)
    best = sorted(found, key=lambda each: each["score"], reverse=True)[:N_BEST]
    if not any(each["offsets"] == (0, 0) for each in best):
        best.append(null)
    for each in best:
        each["text"] = context[each["offsets"][0] : each["offsets"][1]]
    scores = np.array([each["score"] for each in best])
    shares = np.exp(scores - np.max(scores))
    for each, share in zip(best, shares / shares.sum(), strict=True):
        each["probability"] = share
    top = next(each for each in best if each["text"])
    odds = float(null["score"] - top["start"] - top["end"])
    return ("" if odds > 0 else top["text"]), odds


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
