"""A packed run that is killed goes on packed, wherever it is started again, and ends Equal."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from cases import Case, Gang
from runs import curve, final_state
from zygote import Zygote

from qa_dist.files import read_json
from qa_dist.run_dir import RunDir
from qa_dist.scalars import read_scalars

PACKED = ("train.packing=on", "model.hidden_dropout=0.0")


@pytest.fixture(scope="module")
def packed(
    zygote: Zygote, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """A packed run on one rank that nothing interrupted."""
    case = Case(zygote, [*launch_words, *PACKED], tmp_path_factory.mktemp("packed"))
    gang = Gang(case)
    assert gang.train(1) == [0]
    return case.run


def test_killed_on_two_ranks_it_ends_as_on_one(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, packed: RunDir
) -> None:
    gang = Gang(Case(zygote, [*launch_words, *PACKED], tmp_path))
    run = gang.case.run
    assert -signal.SIGKILL in gang.train(2, "point=train.step;step=4;action=kill9;rank=1")
    assert read_json(run.run_json)["packing"] == "on"
    # From here on nobody asks for it: run.json knows.
    text = run.recipe.read_text()
    assert "packing: 'on'" in text
    run.recipe.write_text(text.replace("packing: 'on'", "packing: auto"))
    assert gang.train(1) == [0]
    ours, theirs = final_state(run), final_state(packed)
    assert ours["state"]["windows_sha256"] == theirs["state"]["windows_sha256"]
    for mine, other in zip(curve(run), curve(packed), strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    for line in read_scalars(run.scalars):
        assert line.get("speed/padding_efficiency", 1.0) == 1.0


def test_killed_on_one_rank_it_ends_equal(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, packed: RunDir
) -> None:
    gang = Gang(Case(zygote, [*launch_words, *PACKED], tmp_path))
    assert gang.train(1, "point=train.step;step=4;action=kill9") == [-signal.SIGKILL]
    assert gang.train(1) == [0]
    assert final_state(gang.case.run) == final_state(packed)


def test_padded_it_walks_the_same_curve_in_other_bits(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, packed: RunDir
) -> None:
    gang = Gang(Case(zygote, [*launch_words, "model.hidden_dropout=0.0"], tmp_path))
    assert gang.train(1) == [0]
    run = gang.case.run
    assert read_json(run.run_json)["packing"] == "off"
    for mine, other in zip(curve(run), curve(packed), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)
    assert final_state(run)["weights"] != final_state(packed)["weights"]
    assert any(line.get("speed/padding_efficiency", 1.0) < 1 for line in read_scalars(run.scalars))
