"""Steps of several sources: what is updated, counted and weighed; test_loop.py has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from runs import make_run

from qa_dist.data.prepared import read_prepared
from qa_dist.files import read_json
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.training.engine import Engine
from qa_dist.training.loop import Training
from qa_dist.training.steps import seed_generators

SAMPLE = Path(__file__).resolve().parents[2] / "qa_dist" / "sample"
SQUAD = [
    "sources.1.task=squad",
    f"sources.1.train={SAMPLE / 'squad2-train.json'}",
    f"sources.1.dev={SAMPLE / 'squad2-dev.json'}",
    "sources.1.max_train_examples=24",
    "sources.1.max_dev_examples=8",
    "sources.1.weight=0.5",
    "model.hidden_dropout=0",
]


@pytest.fixture
def training(launch_words: list[str], tmp_path: Path) -> Iterator[Training]:
    """CoQA and SQuAD in turn, fp32, alone."""
    with ExitStack() as stack:
        run = make_run([*launch_words, f"prepared_dir={tmp_path / 'prepared'}"], tmp_path, *SQUAD)
        engine = Engine("fp32")
        stack.callback(engine.close)
        recipe, facts = load_saved_recipe(run.recipe), read_json(run.run_json)
        made = Training(run, recipe, read_prepared(run), engine, facts)
        made._lay_out(None)
        yield made


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.model.named_parameters()}


def changed(training: Training, before: dict[str, torch.Tensor]) -> set[str]:
    return {n for n, p in training.model.named_parameters() if not torch.equal(p, before[n])}


def test_a_head_is_updated_in_its_sources_steps_alone(training: Training) -> None:
    for step in range(4):  # momentum of earlier steps doesn't move it either
        before = weights(training)
        training.train_step(step, rate=1e-3)
        moved = changed(training, before)
        own, other = f"heads.{step % 2}.", f"heads.{1 - step % 2}."
        assert any(name.startswith("encoder.") for name in moved)
        assert any(name.startswith(own) for name in moved)
        assert not any(name.startswith(other) for name in moved)
    training.progress.step = 4
    assert training._num_updates("heads.0.qa_outputs.weight") == 2
    assert training._num_updates("encoder.embeddings.word_embeddings.weight") == 4


def test_a_sources_weight_scales_its_gradient_and_not_its_loss(training: Training) -> None:
    training.train_step(0, rate=0.0)
    norm = float(training.train_step(1, rate=0.0))
    loss = float(training.steps.losses.sums[1])
    training.steps.balance.fixed[1] = 1.0
    assert float(training.train_step(1, rate=0.0)) == pytest.approx(2 * norm, rel=1e-4)
    assert float(training.steps.losses.sums[1]) == pytest.approx(2 * loss, rel=1e-5)
    assert training.steps.losses.steps == [1, 2]


def test_cosines_update_and_count_nothing(training: Training) -> None:
    before, seen = weights(training), training.steps.seen
    found = training.steps.gradient_cosines(0)
    assert set(found) == {(1, 0)} and -1 <= float(found[1, 0]) <= 1
    assert changed(training, before) == set()
    assert training.steps.seen is seen and seen.windows == 0
    assert all(p.grad is None for p in training.model.parameters())


def test_a_source_agrees_with_itself(training: Training) -> None:
    sources = training.batches.sources
    sources[1] = sources[0]
    training.layout._owners = {}
    gradients = []
    for source in (0, 0):
        training.steps._forward_backward(0, sources[source].step(0, source), 1.0)
        gradients.append(training.layout.shared_gradients())
        training.layout.forget_gradients()
    assert len(gradients[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_backward_that_counts_for_nothing_leaves_nothing(training: Training) -> None:
    before = weights(training)
    training.steps.warm_up()
    assert changed(training, before) == set() and training.steps.seen.windows == 0
    assert all(p.grad is None for p in training.model.parameters())


def test_seeds_of_any_64_bits_are_let_in() -> None:
    draws = []
    for seed in (2**64 - 1, 2**63 - 1, 5):
        seed_generators(seed)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[1] != draws[2]
