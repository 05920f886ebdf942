"""CoQA with each of the six architectures, and SQuAD with a CRF, through the real stages: prepare,
train on two ranks, killed, resumed, evaluated.

Small random models with a tokenizer of their own kind (encoders.py). Equal means what it means in
faults/test_training_faults.py: weights, optimizer, hash of all windows and scalars are those of a
training that nothing interrupted, to the last bit.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from cases import Case
from encoders import ARCHITECTURES, make_encoder
from runs import final_state
from zygote import Zygote, free_port, rank_environ

from qa_dist.checkpoint import list_steps
from qa_dist.files import read_json

NUM_STEPS = 2
SAMPLE = Path(__file__).resolve().parent.parent / "qa_dist" / "sample"


@pytest.fixture(scope="module")
def words(launch_words: list[str]) -> list[str]:
    return [
        *launch_words,
        "sources.0.max_train_examples=32",
        "sources.0.max_dev_examples=12",
        "data.max_length_tokens=128",
        "data.window_overlap_tokens=32",
        f"train.max_steps={NUM_STEPS}",
        "train.checkpoint_every_steps=1",
        "train.min_micro_batches_per_step=2",
        "train.validation_windows=8",
        "train.log_every_steps=1",
        "evaluation.num_resamples=20",
        "evaluation.floor=true",
    ]


def new_case(zygote: Zygote, words: list[str], folder: Path, architecture: str) -> Case:
    encoder = make_encoder(folder / architecture, architecture)
    own = (f"model.name={encoder}", f"prepared_dir={folder / 'prepared'}")
    case = Case(zygote, [*words, *own], folder)
    child = case.launch("stages=prepare")
    assert child.status == 0, child.text
    prepared = Path(read_json(case.run.run_json)["prepared"]["folder"])
    types = read_json(next(prepared.glob("dev-*/MANIFEST.json")))["template"]["type_ids"]
    assert types == [0, 0, 0, *([0, 0] if architecture == "roberta" else [1, 1])]
    return case


def train(case: Case, fault: str = "", break_it: str = "nothing") -> list[int]:
    """Train on two ranks, without a launcher."""
    port = free_port()
    children = [
        case.zygote.start(
            "broken_train",
            break_it,
            str(case.run.root),
            env={**rank_environ(rank, 2, port), **case.environ(fault)},
        )
        for rank in range(2)
    ]
    return [child.wait() for child in children]


def trained(case: Case) -> dict[str, Any]:
    """Train to the end in a copy of a prepared run; return what must be Equal."""
    copy = Case(case.zygote, case.words, case.folder / "uninterrupted")
    shutil.copytree(case.run.root, copy.run.root)
    assert train(copy) == [0, 0]
    return final_state(copy.run, NUM_STEPS)


def scores_after_a_kill(case: Case) -> dict[str, Any]:
    """Kill the training at step 1, resume it, compare it, evaluate; return the scores."""
    expected = trained(case)
    statuses = train(case, fault="point=train.saved;step=1;rank=0;action=kill9")
    assert statuses[0] == -signal.SIGKILL and statuses[1] != 0
    assert case.fired() == [("train.saved", "kill9", 1)]
    assert list_steps(case.run.checkpoints) == [1]
    assert train(case) == [0, 0]
    assert final_state(case.run, NUM_STEPS) == expected
    case.goes_on_to_the_end()  # evaluates and aggregates: the rest is there
    return dict(read_json(case.run.scores_file(NUM_STEPS)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_killed_resumed_and_evaluated(
    zygote: Zygote, words: list[str], tmp_path: Path, architecture: str
) -> None:
    case = new_case(zygote, words, tmp_path, architecture)
    scores = scores_after_a_kill(case)
    assert scores["num_questions"] == 12 and not scores["partial"]
    assert scores["own_history"]["by"].keys() == scores["by"].keys()
    assert read_json(case.run.scores_file(0))["num_questions"] == 12, "the floor"
    figures = scores["scores"][scores["headline"]]
    assert 0 <= figures["em_low"] <= figures["em"] <= figures["f1"] <= figures["f1_high"] <= 100


def test_a_crf_on_spans_is_killed_resumed_and_evaluated(
    zygote: Zygote, words: list[str], tmp_path: Path
) -> None:
    given = (
        "sources.0.task=squad",
        f"sources.0.train={SAMPLE / 'squad2-train.json'}",
        f"sources.0.dev={SAMPLE / 'squad2-dev.json'}",
        "sources.0.heldout_fraction=0.2",
        "model.head=span_crf",
    )
    case = new_case(zygote, [*words, *given], tmp_path, "bert")
    scores = scores_after_a_kill(case)
    assert scores["num_questions"] == 12 and not scores["partial"]
    assert {"at_0", "tuned", "oracle"} == scores["scores"].keys()


def test_control_a_resume_without_its_moments_is_not_equal(
    zygote: Zygote, words: list[str], tmp_path: Path
) -> None:
    case = new_case(zygote, words, tmp_path, "electra")
    expected = trained(case)
    train(case, fault="point=train.saved;step=1;rank=0;action=kill9")
    assert train(case, break_it="moments") == [0, 0]
    resumed = final_state(case.run, NUM_STEPS)
    assert resumed["weights"] != expected["weights"]
    assert resumed["state"]["windows_sha256"] == expected["state"]["windows_sha256"]
