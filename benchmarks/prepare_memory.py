"""Memory of prepare from 10,000 to 1,000,000 examples: it should be flat.

    python benchmarks/prepare_memory.py [small=10000] [large=1000000] [per_shard=10000]

Made-up files in SQuAD's form with short contexts (30 words, five questions), planned and indexed as
a launch does, in as many shards as have `per_shard` questions each. In processes of their own: the
launcher's part (fingerprint, index, plan), then one element of the prepare array, the middle one.
Figure: the element's peak resident memory (VmHWM, which counts mapped pages too) at the large size
by the small one's. The launcher's own peak is there for information: it holds the index, 24 bytes a
context. No peer. Goal: <= 1.10.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from inputs import encoder
from side_by_side import ROOT, Row, compared, run_script

LIBRARIES = ("tokenizers", "transformers", "numpy")
QUESTIONS = 5  # per context
PARAGRAPHS = 50  # per article


def rows(small: int = 10_000, large: int = 1_000_000, per_shard: int = 10_000) -> Iterator[Row]:
    """Yield the element's row, then the launcher's."""
    peaks: dict[str, list[float]] = {"launcher": [], "element": []}
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        model = encoder(Path(name) / "encoder", "tiny")
        for size in (large, small):
            folder = Path(name) / str(size)
            folder.mkdir()
            write_questions(folder / "train.json", size)
            write_questions(folder / "dev.json", 500)
            num_shards = max(1, size // per_shard)
            started = time.perf_counter()
            peaks["launcher"].append(_peak("launch", folder, model, num_shards))
            peaks["element"].append(_peak("make", folder, model, num_shards))
            seconds.append(time.perf_counter() - started)
    for what, goal in (("element", "<= 1.10"), ("launcher", "")):
        most, least = peaks[what]
        yield compared(
            f"prepare: peak memory of the {what}, {large} by {small} examples",
            ([most], [least]),
            goal,
            unit="MB",
            is_ratio_of_times=True,
            libraries=LIBRARIES,
            note=f"{per_shard} questions per shard; theirs is ours at {small};"
            f" {seconds[0]:.0f} s and {seconds[1]:.0f} s with Python's start",
        )


def write_questions(path: Path, num: int) -> None:
    """Write `num` questions in SQuAD's form, a paragraph at a time."""
    rng = random.Random(num)
    words = [f"{a}{b}" for a in "bcdfghklmnprstvw" for b in ("at", "en", "ill", "orn", "ub")]
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"version": "1.1", "data": [')
        for number in range(num // QUESTIONS):
            if number % PARAGRAPHS == 0:
                stream.write("]}, " if number else "")
                stream.write(f'{{"title": "article {number}", "paragraphs": [')
            else:
                stream.write(", ")
            text = [*rng.choices(words, k=28), str(number), str(rng.randrange(10**6))]
            asked = []
            for k in range(QUESTIONS):
                first = rng.randrange(len(text))
                at = len(" ".join([*text[:first], ""]))
                answers = [{"text": text[first], "answer_start": at}]
                question = f"what is behind {text[first - 1]}?"
                asked.append({"id": f"{number}-{k}", "question": question, "answers": answers})
            stream.write(json.dumps({"context": " ".join(text), "qas": asked}))
        stream.write("]}]}")


def _peak(do: str, folder: Path, model: Path, num_shards: int) -> float:
    """Run one of the two below in a process of its own; return its peak memory in MB."""
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(ROOT)]!r}\n"
        f"import prepare_memory; prepare_memory.{do}({str(folder)!r}, {str(model)!r}, {num_shards})"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1])


def launch(folder: str, model: str, num_shards: int) -> None:
    """Plan a run in `folder` as a launch does; print this process's peak memory."""
    from prepare import launched

    root = Path(folder)
    launched(root, Path(model), "squad", root / "train.json", root / "dev.json", num_shards)
    _print_peak()


def make(folder: str, model: str, num_shards: int) -> None:
    """Make the middle shard of what `launch` planned; print this process's peak memory."""
    from qa_dist.prepare import prepare_element
    from qa_dist.processes import leave_torch_out
    from qa_dist.run_dir import RunDir

    leave_torch_out()  # as an array element does
    prepare_element(RunDir(Path(folder) / "run"), num_shards // 2)
    _print_peak()


def _print_peak() -> None:
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    if match is None:
        raise SystemExit("/proc/self/status: no VmHWM; this needs Linux")
    print(int(match[1]) / 1024)


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
