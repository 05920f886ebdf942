"""Each engine walks DDP's curve, and what it saves goes on with any number of ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case, Gang
from runs import curve, windows_sha256
from torch import nn
from zygote import Zygote

from qa_dist.checkpoint import list_steps
from qa_dist.cluster.pipeline import STOPPED
from qa_dist.files import file_sha256, read_json
from qa_dist.recipe import Train
from qa_dist.run_dir import RunDir, step_name
from qa_dist.training.engine import Engine
from qa_dist.training.layout import Replicated, _blocks, lay_out

SHARDED = ("fsdp", "zero1", "zero2", "zero3")
STEPS = 12
WORDS = (
    f"train.max_steps={STEPS}",
    "train.checkpoint_every_steps=5",
    "train.keep_checkpoints=9",
    "train.log_every_steps=1",
    "train.precision=fp32",
)


def small(one_rank: Engine, **settings: Any) -> Replicated:
    torch.manual_seed(0)
    return lay_out(one_rank, nn.Linear(2, 1, bias=False), replace(Train(), **settings))


# ---- one rank


def test_gradients_of_micro_batches_add_up(engine: Engine) -> None:
    layout = small(engine)
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for i in range(2):
        loss = layout.backward(lambda i=i: layout.model(rows[i]).sum(), is_last=i == 1)
        assert not loss.requires_grad
    (weight,) = layout.module.parameters()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[4.0, 6.0]]


def test_an_update_clips_and_gives_the_norm_before(engine: Engine) -> None:
    layout = small(engine, clip_norm=0.5, weight_decay=0.0)
    before = layout.weights()["weight"].clone()
    loss = layout.backward(lambda: layout.model(torch.tensor([3.0, 4.0])).sum(), is_last=True)
    assert layout.update(0.125, loss).item() == pytest.approx(5.0)
    moved = layout.weights()["weight"] - before
    assert moved.tolist() == [[pytest.approx(-0.125, rel=1e-4)] * 2], "Adam's first step: the rate"
    exp_avg = layout.moments()["exp_avg/weight"]
    assert exp_avg.norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4), "of the clipped gradient"


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_bad_step_changes_nothing_and_is_counted(engine: Engine, bad: str) -> None:
    layout = small(engine)
    before = layout.weights()["weight"].clone()
    row = torch.tensor([1.0, math.nan if bad == "gradient" else 2.0])
    loss = layout.backward(lambda: layout.model(row).sum(), is_last=True)
    layout.update(0.5, torch.tensor(math.inf) if bad == "loss" else torch.tensor(1.0))
    assert layout.bad_steps.item() == 1
    assert torch.equal(layout.weights()["weight"], before)
    assert loss.isfinite() == (bad == "loss")


@pytest.mark.parametrize("kind", SHARDED)
def test_one_rank_alone_has_all_whatever_is_asked(engine: Engine, kind: str) -> None:
    layout = small(engine, engine=kind)
    assert type(layout) is Replicated and layout.model is layout.module
    assert layout.even_out([[1], [2], [3]]) == [[1], [2], [3]]


def test_ranks_that_must_do_equally_much_get_empty_micro_batches(engine: Engine) -> None:
    layout = small(engine)
    layout.is_sharded = True  # type: ignore[misc]
    engine.world_size = 4
    assert layout.even_out([[1], [2], [3], [4], [5]]) == [[1], [2], [3], [4], [5], (), (), ()]
    assert layout.even_out([[1]] * 4) == [[1]] * 4


def test_blocks_are_the_outermost_members_of_lists() -> None:
    inner = nn.ModuleList([nn.Linear(1, 1)])
    outer = nn.ModuleList([nn.Sequential(inner), nn.Linear(1, 1)])
    model = nn.Sequential(nn.Embedding(2, 1), nn.Sequential(outer))
    assert list(_blocks(model)) == list(outer)


# ---- several ranks


def losses(run: RunDir, name: str = "train/loss") -> dict[int, float]:
    return {line["step"]: line[name] for line in curve(run) if name in line}


def differ(run: RunDir, other: RunDir, name: str = "train/loss") -> float:
    """The largest relative difference of two runs' curves."""
    ours, theirs = losses(run, name), losses(other, name)
    assert ours.keys() == theirs.keys() and ours
    return max(abs(ours[step] / theirs[step] - 1) for step in ours)


def make_gang(zygote: Zygote, words: list[str], folder: Path, *more: str) -> Gang:
    return Gang(Case(zygote, [*words, *WORDS, *more], folder), most_ranks=4)


@pytest.fixture(scope="module")
def ddp(
    zygote: Zygote, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    gang = make_gang(zygote, launch_words, tmp_path_factory.mktemp("ddp"))
    assert gang.train(4) == [0] * 4
    return gang.case.run


def saved(run: RunDir, step: int) -> list[str]:
    folder = run.checkpoints / step_name(step)
    names = ("model.safetensors", "optimizer.safetensors", "train_state.json")
    return [file_sha256(folder / name) for name in names]


@pytest.mark.parametrize("kind", SHARDED)
def test_t19_an_engine_walks_ddps_curve_on_4_ranks_then_2_then_1(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, ddp: RunDir, kind: str
) -> None:
    gang = make_gang(zygote, launch_words, tmp_path, f"train.engine={kind}")
    stop = "point=train.step;step={};action=usr2;rank=0"
    assert gang.train(4, stop.format(9)) == [STOPPED] * 4
    assert gang.train(2, stop.format(10)) == [STOPPED] * 2
    assert gang.train(1) == [0]
    assert [step for _, _, step in gang.case.fired()] == [9, 10]
    run = gang.case.run
    assert differ(run, ddp) < 1e-5
    assert differ(run, ddp, "validation/loss") < 1e-5
    assert differ(run, ddp, "train/gradient_norm") < 1e-4
    assert windows_sha256(run, STEPS) == windows_sha256(ddp, STEPS)


def test_another_learning_rate_is_seen_by_that_comparison(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, ddp: RunDir
) -> None:
    gang = make_gang(zygote, launch_words, tmp_path, "train.learning_rate=5.01e-4")
    assert gang.train(1) == [0]
    assert differ(gang.case.run, ddp) > 1e-5


@pytest.mark.parametrize("kind", ["fsdp", "zero2", "zero3"])
def test_t08_stopped_on_the_way_an_engine_ends_with_the_same_bytes(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, kind: str
) -> None:
    runs = []
    for name, stops in (("whole", []), ("stopped", [2, 8])):
        gang = make_gang(zygote, launch_words, tmp_path / name, f"train.engine={kind}")
        for step in stops:
            fault = f"point=train.step;step={step};action=usr2;rank=2"
            assert gang.train(3, fault) == [STOPPED] * 3
        assert gang.train(3) == [0] * 3
        runs.append(gang.case.run)
    assert [saved(runs[0], step) for step in (5, 10, 12)] == [
        saved(runs[1], step) for step in (5, 10, 12)
    ]
    assert saved(runs[0], 10) != saved(runs[0], 12)


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "zero2", "zero3"])
def test_t22_a_bad_gradient_of_one_rank_stops_all_before_the_update(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, kind: str
) -> None:
    gang = make_gang(zygote, launch_words, tmp_path, f"train.engine={kind}")
    assert gang.train(2, "point=train.gradient;step=6;rank=1;action=nan") == [1, 1]
    assert gang.case.fired() == [("train.gradient", "nan", 6)]
    error = read_json(gang.case.run.status_file("train", 0))["error"]
    assert error.startswith("step 6: loss or gradient isn't finite")
    assert list_steps(gang.case.run.checkpoints) == [5], "nothing of that step was saved"
