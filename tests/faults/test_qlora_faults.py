"""QLoRA that is killed goes on by the same command and ends Equal, on two ranks, DDP and ZeRO-2."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from cases import Case, Gang
from chat_runs import chat_words
from runs import final_state
from safetensors.torch import load_file
from zygote import Zygote

from qa_dist.checkpoint import list_steps
from qa_dist.run_dir import RunDir, step_name

LAST = 5


@pytest.fixture(scope="module")
def words(tiny_chat: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return chat_words(tiny_chat, tmp_path_factory.mktemp("chat"))


def make_gang(zygote: Zygote, words: list[str], folder: Path, *more: str) -> Gang:
    folder.mkdir(exist_ok=True)
    case = Case(zygote, [*words, *more], folder)
    case.run = RunDir(folder / "runs" / "academic_qwen_qlora" / "main")
    return Gang(case)


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / step_name(LAST) / "model.safetensors")


@pytest.fixture(scope="module")
def finished(
    lm_zygote: Zygote, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """A run on two ranks that nothing interrupted."""
    gang = make_gang(lm_zygote, words, tmp_path_factory.mktemp("finished"))
    assert gang.train(2) == [0, 0]
    return gang.case.run


def test_a_checkpoint_holds_adapters_and_their_moments_alone(finished: RunDir) -> None:
    folder = finished.checkpoints / step_name(LAST)
    model, moments = weights(finished), load_file(folder / "optimizer.safetensors")
    adapters = {name for name in model if ".lora_" in name}
    assert set(model) == adapters | {"base_digest"}
    assert {name.partition("/")[2] for name in moments} == adapters
    assert {name.partition("/")[0] for name in moments} == {
        *("state1", "state2", "absmax1", "absmax2"),
    }
    assert {moments[name].dtype for name in moments if name.startswith("state1")} == {
        torch.uint8,
        torch.float32,
    }
    size = (folder / "model.safetensors").stat().st_size
    assert size < 1.1 * sum(4 * model[name].numel() for name in adapters) + 20_000


def test_killed_on_two_ranks_it_ends_equal(
    lm_zygote: Zygote, words: list[str], finished: RunDir, tmp_path: Path
) -> None:
    gang = make_gang(lm_zygote, words, tmp_path)
    statuses = gang.train(2, "point=train.step;step=3;action=kill9;rank=1")
    assert -signal.SIGKILL in statuses and 0 not in statuses
    assert list_steps(gang.case.run.checkpoints) == [2]
    assert gang.train(2) == [0, 0]
    assert final_state(gang.case.run, LAST) == final_state(finished, LAST)


def test_another_seed_isnt_equal(
    lm_zygote: Zygote, words: list[str], finished: RunDir, tmp_path: Path
) -> None:
    gang = make_gang(lm_zygote, words, tmp_path, "train.seed=43")
    assert gang.train(1) == [0]
    ours, theirs = final_state(gang.case.run, LAST), final_state(finished, LAST)
    assert all(ours[what] != theirs[what] for what in ("weights", "optimizer", "scalars"))


def test_zero_2_ends_equal_and_walks_ddps_curve(
    lm_zygote: Zygote, words: list[str], tmp_path: Path
) -> None:
    plain = "train.optimizer=adamw"
    ddp = make_gang(lm_zygote, words, tmp_path / "ddp", plain)
    assert ddp.train(1) == [0]
    runs = []
    for name in ("whole", "killed"):
        gang = make_gang(lm_zygote, words, tmp_path / name, plain, "train.engine=zero2")
        if name == "killed":
            fault = "point=train.step;step=3;action=kill9;rank=1"
            assert -signal.SIGKILL in gang.train(2, fault)
        assert gang.train(2) == [0, 0]
        runs.append(gang.case.run)
    assert final_state(runs[0], LAST) == final_state(runs[1], LAST)
    ours, theirs = weights(runs[0]), weights(ddp.case.run)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name].float(), theirs[name].float(), atol=2e-4), name
