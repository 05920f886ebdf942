"""Named entities and questions on one encoder: stopped and killed, the run ends Equal, on two
ranks, with learned weights of the losses and with an adapter for each source."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from cases import Case, Gang
from fitted import made_sentences, write_conll
from runs import curve, final_state
from zygote import Zygote

from qa_dist.files import read_json
from qa_dist.run_dir import RunDir

SAMPLE = Path(__file__).resolve().parents[2] / "qa_dist" / "sample"
LAST, STOPPED = 8, 75
GRADNORM = ("train.balance=gradnorm", "train.mixing=proportional")
UNCERTAIN = ("train.balance=uncertainty", "train.mixing=temperature", "model.lora_rank=2")


@pytest.fixture(scope="module")
def words(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("joint")
    sentences = made_sentences(60)
    return [
        "recipe=ner_squad_bert",
        "profile=debug",
        "name=main",
        f"prepared_dir={folder / 'prepared'}",
        f"model.name={tiny_encoder}",
        f"sources.0.train={write_conll(folder / 'train.txt', sentences[:40])}",
        f"sources.0.dev={write_conll(folder / 'dev.txt', sentences[40:])}",
        f"sources.1.train={SAMPLE / 'squad2-train.json'}",
        f"sources.1.dev={SAMPLE / 'squad2-dev.json'}",
        "sources.1.max_train_examples=48",
        "sources.1.max_dev_examples=12",
        "data.max_length_tokens=128",
        "data.window_overlap_tokens=32",
        "train.batch_windows=8",
        f"train.max_steps={LAST}",
        "train.checkpoint_every_steps=3",
        "train.log_every_steps=1",
        "train.learning_rate=2e-3",
        "train.gradient_cosine_every_steps=2",
        "train.validation_windows=8",
        "evaluation.num_resamples=20",
        "data.num_shards=1",
    ]


def make_gang(zygote: Zygote, words: list[str], folder: Path, *more: str) -> Gang:
    own = list({word.partition("=")[0]: word for word in (*words, *more)}.values())
    case = Case(zygote, own, folder)
    case.run = RunDir(folder / "runs" / "ner_squad_bert" / "main")
    return Gang(case)


def stopped_at(zygote: Zygote, words: list[str], folder: Path, *more: str) -> Gang:
    """A run on two ranks that a signal stopped after its fifth step."""
    gang = make_gang(zygote, words, folder, *more)
    assert gang.train(2, "point=train.step;step=4;action=usr2;rank=1") == [STOPPED] * 2
    return gang


def ended(run: RunDir) -> dict[str, Any]:
    return final_state(run, LAST)


@pytest.fixture(scope="module", params=[GRADNORM, UNCERTAIN], ids=["gradnorm", "uncertainty"])
def whole(
    request: pytest.FixtureRequest,
    zygote: Zygote,
    words: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[tuple[str, ...], RunDir]:
    """Settings, and their run on two ranks that nothing interrupted."""
    gang = make_gang(zygote, words, tmp_path_factory.mktemp("whole"), *request.param)
    assert gang.train(2) == [0, 0]
    return request.param, gang.case.run


def test_stopped_and_killed_it_ends_equal(
    zygote: Zygote, words: list[str], whole: tuple[tuple[str, ...], RunDir], tmp_path: Path
) -> None:
    settings, expected = whole
    gang = stopped_at(zygote, words, tmp_path, *settings)
    statuses = gang.train(2, "point=train.step;step=7;action=kill9;rank=1")
    assert -signal.SIGKILL in statuses and 0 not in statuses
    assert gang.train(2) == [0, 0]
    assert [step for _, _, step in gang.case.fired()] == [4, 7]
    assert ended(gang.case.run) == ended(expected)


@pytest.mark.parametrize("mechanism", ["balance", "updates"])
def test_control_without_this_mechanism_it_is_not_equal(
    zygote: Zygote,
    words: list[str],
    whole: tuple[tuple[str, ...], RunDir],
    tmp_path: Path,
    mechanism: str,
) -> None:
    settings, expected = whole
    gang = stopped_at(zygote, words, tmp_path, *settings)
    child = gang.case.launch(gang.words, "stages=train", break_it=mechanism)
    assert child.status == 0, child.text
    assert ended(gang.case.run)["weights"] != ended(expected)["weights"]


def test_one_rank_walks_the_curve_of_two(
    zygote: Zygote, words: list[str], whole: tuple[tuple[str, ...], RunDir], tmp_path: Path
) -> None:
    settings, expected = whole
    gang = make_gang(zygote, words, tmp_path, *settings)
    assert gang.train(1) == [0]
    for ours, theirs in zip(curve(gang.case.run), curve(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_fsdp_walks_the_curve_of_ddp(
    zygote: Zygote, words: list[str], tmp_path: Path, rank: int
) -> None:
    runs = []
    for engine in ("ddp", "fsdp"):
        own = (f"train.engine={engine}", "train.max_steps=4", f"model.lora_rank={rank}")
        gang = make_gang(zygote, words, tmp_path / engine, *own)
        assert gang.train(2) == [0, 0]
        runs.append(curve(gang.case.run))
    for ours, theirs in zip(*runs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_what_is_written_of_each_source(whole: tuple[tuple[str, ...], RunDir]) -> None:
    lines = curve(whole[1])
    steps = [
        (line["train_ner/steps"], line["train_squad/steps"])
        for line in lines
        if "train_ner/steps" in line
    ]
    assert [sum(pair) for pair in steps] == list(range(1, LAST + 1))
    assert any("gradient_cosine/ner_squad" in line for line in lines)
    weights = [line["train_ner/weight"] for line in lines if "train_ner/weight" in line]
    assert len(set(weights)) > 2, "the weights move"
    assert any("validation_squad/loss" in line for line in lines)


def test_a_baseline_shares_data_and_is_scored_alone(
    zygote: Zygote, words: list[str], tmp_path: Path
) -> None:
    runs = {}
    for only in ("all", "ner"):
        case = Case(zygote, [*words, f"train.only={only}", "train.max_steps=2"], tmp_path / only)
        case.run = RunDir(tmp_path / only / "runs" / "ner_squad_bert" / "main")
        child = case.launch()
        assert child.status == 0, child.text
        runs[only] = case.run
    folders = {read_json(run.run_json)["prepared"]["folder"] for run in runs.values()}
    assert len(folders) == 1
    joint, alone = (read_json(runs[only].scores_file(2)) for only in ("all", "ner"))
    assert set(joint["sources"]) == {"ner", "squad"}
    assert "sources" not in alone and "precision" in alone["scores"][alone["headline"]]
    assert alone["num_questions"] == joint["sources"]["ner"]["num_questions"]
