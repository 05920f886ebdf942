"""Prepare against run_qa's features in `datasets.map`: SQuAD, CoQA, bytes on disk, two shards.

    python benchmarks/prepare.py [threads=1] [runs=3] [questions=10000] [rows=squad,coqa,shards]

Peer: what transformers' examples/pytorch/question-answering/run_qa.py does to its training data:
`prepare_train_features` with its defaults (384 tokens, stride 128, padded to the maximum, offsets,
overflowing tokens) in `Dataset.map(batched=True)`, one process, batches of 1000, its Arrow cache
written; the fast tokenizer is loaded and the questions are a Dataset before its time starts. On
CoQA the two turns before are put in front of the question, joined by the separator.
Ours: one element of the prepare array, from the recipe and the plan on disk to the finished shard:
index, tokenizer, reading, windows, labels, fsync, hashes, marker (the input is old: not hashed).
Both in one process with TOKENIZERS_PARALLELISM off (threads=1: a core per array element, or per
process of map) or on, with so many Rust threads.
Compared before: SQuAD's token ids and labels of every window. On CoQA token ids only, and with room
for all of a question (ours cuts history from 64 tokens on, run_qa none): labels differ by design,
since run_qa would take the rationale for the answer. Its conversations are on 1,500 stories of two
of SQuAD's paragraphs each (some 230 words; CoQA's have 270), their questions as turns, the answers
as rationale and answer: no text comes twice, but an answer is found at once. A row without a goal
has 80 real stories, whose answers are looked for (a start weighs more in so few).
Bytes on disk: the shard's folder by the Arrow cache's file; windows are the same. A cost: <= 0.25.
Two shards: two processes, each making its half, by one making one shard of all, started together
and loaded before time starts, as array elements of a local launch. The machine's own ceiling is
measured between them: two processes that each make the shard of all. Eight times the questions.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from inputs import Inputs, coqa, encoder, squad
from run_qa import MAX_LENGTH, STRIDE, Theirs, with_history
from side_by_side import Row, compared, in_turn, run_script

HISTORY_TURNS = 2
NUM_STORIES = 1500
LIBRARIES = ("tokenizers", "transformers", "datasets", "numpy")


def rows(
    threads: int = 1, runs: int = 3, questions: int = 10_000, rows: str = "squad,coqa,shards"
) -> Iterator[Row]:
    """Yield the rows of each of the kinds in `rows`."""
    os.environ |= {
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "RAYON_NUM_THREADS": str(threads),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = encoder(folder / "encoder", "tiny")
        kinds = rows.split(",")
        note = f"tokenizer threads: {threads} each"
        if "squad" in kinds:
            yield from _squad_rows(folder, model, questions, runs, note)
        if "coqa" in kinds:
            yield from _coqa_rows(folder, model, runs, note)
        if "shards" in kinds:
            yield from _shard_rows(folder, model, questions, runs)


# -- ours ------------------------------------------------------------------------------------------


@dataclass
class Ours:
    """A launched run whose training split is prepared again and again."""

    run: Any
    prepared: Any
    num_shards: int = 1

    def make(self, shard: int = 0) -> None:
        """Make one shard of the training split."""
        from qa_dist.prepare import prepare_element

        folder = self.prepared.shards("train")[shard]
        if folder.exists():
            shutil.rmtree(folder)
        prepare_element(self.run, shard)

    def windows(self) -> list[tuple[list[int], int, int]]:
        """Return (token ids, start, end) of each window, as a model is given it.

        Of a character's several tokens (a Korean syllable's letters) ours takes all; run_qa's
        search takes a start's last and an end's first, and so does what is returned.
        """
        import numpy as np

        from qa_dist.data.prepared import read_template

        split = self.prepared.open("train")
        template = read_template(split)
        found = []
        for shard in split.shards:
            for row in range(shard.num_windows):
                example = int(shard["window_example"][row])
                first, end = (int(shard[f"window_{name}"][row]) for name in ("from", "to"))
                question = shard.ragged("question_tokens", example).tolist()
                context = shard.ragged("context_tokens", int(shard["example_context"][example]))
                before = [*template.before, *question, *template.between]
                shift = len(before) - first
                start = stop = 0
                if shard["window_kind"][row] == 0:
                    start, stop = (int(shard[f"window_{name}"][row]) for name in ("start", "end"))
                    chars = np.stack(shard.char_spans(int(shard["example_context"][example])))
                    while start < stop and (chars[:, start] == chars[:, start + 1]).all():
                        start += 1
                    while stop > start and (chars[:, stop] == chars[:, stop - 1]).all():
                        stop -= 1
                    start, stop = start + shift, stop + shift
                found.append(
                    ([*before, *context[first:end].tolist(), *template.after], start, stop)
                )
        return found


def launched(
    root: Path, model: Path, task: str, train: Path, dev: Path, num_shards: int = 1, **data: Any
) -> Ours:
    """Return a run whose plan is made, as a launch leaves it for the array elements."""
    from qa_dist.files import write_json, write_text
    from qa_dist.plan import make_plan, save_plan
    from qa_dist.recipe import Data, Model, Recipe, Source
    from qa_dist.recipe_loading import recipe_to_yaml
    from qa_dist.run_dir import RunDir

    recipe = Recipe(
        name="benchmark",
        sources=[Source(task=task, train=str(train), dev=str(dev))],
        data=Data(MAX_LENGTH, STRIDE, history_turns=HISTORY_TURNS, **data),
        model=Model(name=str(model)),
    )
    plan = make_plan(recipe, root / "prepared")
    prepared, run = plan.prepared(num_shards, max_parallel=1), RunDir(root / "run")
    write_text(run.recipe, recipe_to_yaml(recipe))
    write_json(run.run_json, {"id": "x", "attempt": 1, "prepared": prepared.to_json()})
    save_plan(plan)
    return Ours(run, prepared, num_shards)


# -- rows ------------------------------------------------------------------------------------------


def _squad_rows(
    folder: Path, model: Path, num_questions: int, runs: int, note: str
) -> Iterator[Row]:
    inputs = squad(folder)
    train, flat = _first_articles(inputs, folder, num_questions)
    ours = launched(folder / "squad", model, "squad", train, inputs.dev)
    theirs = Theirs(folder, model, flat)
    ours.make()
    mine, other = ours.windows(), theirs.windows()
    if mine != other:
        different = sum(a != b for a, b in zip(mine, other, strict=False))
        raise SystemExit(
            f"SQuAD: {len(mine)} windows and {len(other)}, {different} differ: not the same work"
        )
    seconds = in_turn(ours.make, theirs.make, runs)
    note = ", ".join(filter(None, [note, inputs.note]))
    yield compared(
        f"prepare: SQuAD, {len(flat)} questions",
        seconds,
        ">= 5",
        work=len(mine),
        unit="windows/s",
        libraries=LIBRARIES,
        note=f"{len(mine)} windows and labels equal; {note}",
    )
    bytes_ours = sum(path.stat().st_size for path in ours.prepared.shards("train")[0].iterdir())
    per_window = [size / len(mine) for size in (bytes_ours, theirs.cache.stat().st_size)]
    yield compared(
        "prepare: bytes on disk per window",
        ([per_window[0]], [per_window[1]]),
        "<= 0.25",
        unit="bytes",
        is_ratio_of_times=True,
        libraries=LIBRARIES,
        note="ratio: ours by theirs",
    )


def _coqa_rows(folder: Path, model: Path, runs: int, note: str) -> Iterator[Row]:
    inputs = coqa(folder)
    made = folder / "coqa.json"
    _write(made, _stories(squad(folder).train))
    name = f"prepare: CoQA, {HISTORY_TURNS} turns of history"
    note = ", ".join(filter(None, [note, inputs.note]))
    yield _coqa_row(name, ">= 10", made, inputs.dev, folder / "made", model, runs, note)
    name = f"{name}, real conversations"
    yield _coqa_row(name, "", inputs.train, inputs.dev, folder / "real", model, runs, note)


def _coqa_row(
    name: str, goal: str, train: Path, dev: Path, folder: Path, model: Path, runs: int, note: str
) -> Row:
    whole = launched(folder / "whole", model, "coqa", train, dev, max_question_tokens=220)
    whole.make()
    used = {
        shard.example(i)["id"]
        for shard in whole.prepared.open("train").shards
        for i in range(shard.num_examples)
    }
    questions = [row for row in with_history(train, model, HISTORY_TURNS) if row["id"] in used]
    theirs = Theirs(folder, model, questions)
    mine = [ids for ids, _, _ in whole.windows()]
    if mine != [ids for ids, _, _ in theirs.windows()]:
        raise SystemExit(f"{name}: token ids differ: not the same work")
    ours = launched(folder / "ours", model, "coqa", train, dev)
    calls = (2, 1) if len(mine) > 2000 else (8, 2)
    return compared(
        name,
        in_turn(ours.make, theirs.make, runs, calls),
        goal,
        work=len(mine),
        unit="windows/s",
        libraries=LIBRARIES,
        note=f"{len(mine)} windows, token ids equal with room for the history; {note}",
    )


def _shard_rows(folder: Path, model: Path, num_questions: int, runs: int) -> Iterator[Row]:
    inputs = squad(folder)
    train, _ = _first_articles(inputs, folder, 8 * num_questions)
    whole, copy, halves = (
        launched(folder / f"shards-{i}", model, "squad", train, inputs.dev, num)
        for i, num in enumerate((1, 1, 2))
    )
    one, two, ceilings = [], [], []
    for _ in range(runs):
        one.append(_together([(_make_shard, (whole, 0))]))
        two.append(_together([(_make_shard, (halves, i)) for i in range(2)]))
        both = _together([(_make_shard, (ours, 0)) for ours in (whole, copy)])
        ceilings.append(2 * one[-1] / both)
    ceiling = statistics.median(ceilings)
    yield compared(
        "prepare: 2 shards on 2 cores by 1",
        (two, one),
        ">= 1.8",
        libraries=LIBRARIES,
        note=f"two processes that each make it all reach {ceiling:.2f} times one's rate here",
    )


def _make_shard(ours: Ours, shard: int) -> None:
    ours.make(shard)


def _together(jobs: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> float:
    """Return the seconds from when all processes have loaded until the last has done its job."""
    context = get_context("spawn")
    barrier, done = context.Barrier(len(jobs) + 1), context.Queue()
    processes = [context.Process(target=_run, args=(barrier, done, *job)) for job in jobs]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    for _ in jobs:
        done.get()
    seconds = time.perf_counter() - started
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")
    return seconds


def _run(barrier: Any, done: Any, job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import qa_dist.prepare  # noqa: F401
    from qa_dist.processes import leave_torch_out

    leave_torch_out()  # as an array element does
    barrier.wait()
    job(*arguments)
    done.put(None)


# -- data ------------------------------------------------------------------------------------------


def _first_articles(inputs: Inputs, folder: Path, num: int) -> tuple[Path, list[dict[str, Any]]]:
    """Write the first articles with about so many questions; return the file, and its questions
    as the hub's rows."""
    articles, flat = [], []
    for article in json.loads(inputs.train.read_text())["data"]:
        if len(flat) >= num:
            break
        articles.append(article)
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"]
                flat.append(
                    {
                        "id": question["id"],
                        "question": question["question"],
                        "context": paragraph["context"],
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                    }
                )
    path = folder / f"squad-{num}.json"
    _write(path, articles)
    return path, flat


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    """Write a data file that looks a day old, as a user's would."""
    path.write_text(json.dumps({"version": "1.1", "data": records}))
    os.utime(path, (time.time() - 86_400,) * 2)


def _stories(squad_file: Path) -> list[dict[str, Any]]:
    """Return conversations on two of SQuAD's paragraphs each, of which none comes twice."""
    stories = []
    for article in json.loads(squad_file.read_text())["data"]:
        by_text = {each["context"]: each["qas"] for each in article["paragraphs"]}
        texts = list(by_text)
        for first, second in zip(texts[::2], texts[1::2], strict=False):
            turns = [(0, question) for question in by_text[first]]
            turns += [(len(first) + 1, question) for question in by_text[second]]
            questions, answers = [], []
            for turn_id, (shift, question) in enumerate(turns, start=1):
                answer, turn = question["answers"][0], {"turn_id": turn_id}
                start, text = shift + answer["answer_start"], answer["text"]
                span = {"span_text": text, "span_start": start, "span_end": start + len(text)}
                questions.append({"input_text": question["question"], **turn})
                answers.append({"input_text": text, **span, **turn})
            story = {"id": str(len(stories)), "source": "squad", "story": f"{first} {second}"}
            stories.append({**story, "questions": questions, "answers": answers})
    return stories[:NUM_STORIES]


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
