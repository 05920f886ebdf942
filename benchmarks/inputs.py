"""What the benchmarks run on: SQuAD and CoQA files, and an encoder of MiniLM's shape.

Real data where the environment variable QA_DIST_TEST_DATA names a folder that has
data/squad/{train,dev}-v1.1.json, dev-v2.0.json there, and data/coqa/mctest-train.json, else data of
the bundled kind (qa_dist/sample), repeated and lengthened to SQuAD's size; `is_real` says which,
and a row's note should. The encoder has random weights: they change no time.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).resolve().parent.parent / "qa_dist" / "sample"
SHAPES = {
    "tiny": (32, 2, 2, 64),
    "minilm": (384, 6, 12, 1536),
    "base": (768, 12, 12, 3072),
}
"""Hidden size, layers, attention heads, inner size."""


@dataclass(frozen=True)
class Inputs:
    """Paths of the files."""

    train: Path
    dev: Path
    is_real: bool

    @property
    def note(self) -> str:
        """What a row says of it."""
        return "" if self.is_real else "made-up text"


def squad(folder: Path, num_questions: int = 20_000) -> Inputs:
    """Return SQuAD 1.1; without it, write as many made-up questions into `folder`."""
    if found := _real("squad/train-v1.1.json", "squad/dev-v1.1.json"):
        return Inputs(*found, is_real=True)
    paths = folder / "squad-train.json", folder / "squad-dev.json"
    for path, count, seed in zip(paths, (num_questions, num_questions // 8), (0, 1), strict=True):
        path.write_text(json.dumps({"version": "1.1", "data": made_articles(count, seed)}))
    return Inputs(*paths, is_real=False)


def squad_v2(folder: Path, num_questions: int) -> Inputs:
    """Write the first questions of SQuAD 2.0's dev file, article by article, as `dev` into
    `folder`; without it made-up ones, every other unanswerable. `train` is that of `squad`."""
    train, found = squad(folder), _real("squad/dev-v2.0.json", "squad/dev-v2.0.json")
    if found:
        articles = json.loads(found[0].read_text())["data"]
    else:
        articles = made_articles(num_questions, seed=2)
        for number, question in enumerate(_questions(articles)):
            question["is_impossible"] = number % 2 == 1
            question["answers"] = [] if number % 2 else question["answers"]
    kept = articles[:1]
    while len(_questions(kept)) < num_questions and len(kept) < len(articles):
        kept.append(articles[len(kept)])
    path = folder / "squad-v2-dev.json"
    path.write_text(json.dumps({"version": "v2.0", "data": kept}))
    return Inputs(train.train, path, is_real=bool(found))


def _questions(articles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [qa for article in articles for part in article["paragraphs"] for qa in part["qas"]]


def coqa(folder: Path) -> Inputs:
    """Return CoQA conversations; without real ones, the bundled ones."""
    if found := _real("coqa/mctest-train.json", "coqa/mctest-dev.json"):
        return Inputs(*found, is_real=True)
    return Inputs(SAMPLE / "coqa-train.json", SAMPLE / "coqa-dev.json", is_real=False)


def encoder(folder: Path, shape: str, **config: Any) -> Path:
    """Write a random BERT of this shape and a WordPiece tokenizer to `folder`; return it.

    The tokenizer is the real encoder's where there is one, else the bundled one. `config`: further
    settings of BertConfig.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    real = _data() and Path(_data()) / "models" / "all-MiniLM-L6-v2"
    tokenizer = AutoTokenizer.from_pretrained(
        real if real and real.is_dir() else SAMPLE / "encoder"
    )
    width, layers, heads, inner = SHAPES[shape]
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=max(len(tokenizer), 30_522),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        **config,
    )
    tokenizer.save_pretrained(folder)
    BertModel(settings, add_pooling_layer=False).save_pretrained(folder)
    return folder


def _data() -> str:
    return os.environ.get("QA_DIST_TEST_DATA", "")


def _real(*names: str) -> tuple[Path, Path] | None:
    first, second = (Path(_data() or "/nowhere") / "data" / name for name in names)
    return (first, second) if first.is_file() and second.is_file() else None


def made_articles(num_questions: int, seed: int) -> list[dict[str, Any]]:
    """Return articles in SQuAD's form: contexts of about 120 words (40 to 400) of the sample's
    stories, five questions on each, whose answers are one to six words of the context."""
    rng = random.Random(seed)
    stories = json.loads((SAMPLE / "coqa-train.json").read_text())["data"]
    words = [story["story"].split() for story in stories]
    questions = [turn["input_text"] for story in stories for turn in story["questions"]]
    paragraphs = []
    for number in range(-(-num_questions // 5)):
        length = min(400, max(40, int(rng.lognormvariate(4.7, 0.45))))
        text: list[str] = []
        while len(text) < length:
            text += rng.choice(words)
        text = text[:length]
        asked = []
        for k in range(5):
            first = rng.randrange(length)
            answer = " ".join(text[first : first + rng.randint(1, 6)])
            at = len(" ".join([*text[:first], ""]))
            asked.append(
                {
                    "id": f"{seed}-{number}-{k}",
                    "question": rng.choice(questions),
                    "answers": [{"text": answer, "answer_start": at}],
                }
            )
        paragraphs.append({"context": " ".join(text), "qas": asked})
    groups = [paragraphs[i : i + 20] for i in range(0, len(paragraphs), 20)]
    return [{"title": f"article {i}", "paragraphs": group} for i, group in enumerate(groups)]
