"""The CRF head: labels, loss and span scores against all paths one by one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_encoders import build, make_batch

from qa_dist.data.collate import Batch
from qa_dist.models.span_crf import SpanCrfHead
from qa_dist.recipe import Model

WIDTH, HIDDEN = 12, 5


def make_head(seed: int = 0) -> SpanCrfHead:
    """Return a head with parameters of some size."""
    torch.manual_seed(seed)
    head = SpanCrfHead(HIDDEN)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def windows(
    contexts: list[tuple[int, int]], targets: list[tuple[int, int] | None], null: int = 0
) -> Batch:
    """Return windows whose context lies [from, to), with these spans, None: the null position."""
    candidates = torch.zeros(len(contexts), WIDTH, dtype=torch.bool)
    for row, (first, beyond) in zip(candidates, contexts, strict=True):
        row[first:beyond] = True
        row[null] = True
    spans = torch.tensor([target or (null, null) for target in targets])
    return replace(
        make_batch(0),
        input_ids=torch.zeros(len(contexts), WIDTH, dtype=torch.int64),
        candidate_mask=candidates,
        starts=spans[:, 0],
        ends=spans[:, 1],
        nulls_at=np.full(len(contexts), null),
        context_at=np.array([first for first, _ in contexts]),
    )


def paths_of(head: SpanCrfHead, hidden: torch.Tensor) -> dict[str, float]:
    """Return log p of each path over the tokens `hidden` (S, H), in float64, by its letters."""
    start, end, moves = (value.detach() for value in head.crf.scores(torch.float64))
    emissions = head.label_outputs(hidden).detach().double()
    scores = {}
    for path in itertools.product(range(3), repeat=len(hidden)):
        letters = "".join("OBI"[label] for label in path)
        if letters[0] == "I" or "OI" in letters:
            continue
        score = start[path[0]] + end[path[-1]]
        score += sum(emissions[t, label] for t, label in enumerate(path))
        scores[letters] = float(score + sum(moves[a, b] for a, b in itertools.pairwise(path)))
    log_z = np.logaddexp.reduce(list(scores.values()))
    return {letters: score - log_z for letters, score in scores.items()}


def span_letters(first: int, last: int, size: int) -> str:
    return "O" * first + "B" + "I" * (last - first) + "O" * (size - 1 - last)


def test_the_worked_example() -> None:
    """The numbers at the module's head."""
    head = SpanCrfHead(3)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.label_outputs.weight.copy_(torch.eye(3))
    batch = windows([(3, 5)], [(3, 4)])
    hidden = torch.full((1, WIDTH, 3), 9.0)  # other tokens would change it all
    hidden[0, 3:5] = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    with torch.no_grad():
        assert head.loss(hidden, batch).item() == pytest.approx(0.315, abs=5e-4)
        found = head.span_scores(hidden, batch, 10, 10)
    assert found.scores[0].tolist()[:3] == pytest.approx([-0.315, -2.315, -3.315], abs=5e-4)
    spans = list(zip(found.firsts[0], found.lasts[0], strict=True))[:3]
    assert spans == [(3, 4), (3, 3), (4, 4)]
    assert found.nulls[0] == pytest.approx(-3.315, abs=5e-4)
    assert np.isneginf(found.scores[0][3:]).all(), "two tokens have three spans"


@pytest.mark.parametrize("null", [0, WIDTH - 1])  # BERT's CLS; XLNet's stands last
def test_the_loss_is_that_of_the_windows_labels(null: int) -> None:
    head = make_head()
    contexts, targets = [(3, 9), (5, 7), (4, 5), (2, 8)], [(4, 6), (6, 6), (4, 4), None]
    batch = windows(contexts, targets, null)  # type: ignore[arg-type]
    hidden = torch.randn(4, WIDTH, HIDDEN)
    letters = ["OBIIOO", "OB", "B", "OOOOOO"]
    chances = [
        paths_of(head, hidden[i, a:b])[word]
        for i, ((a, b), word) in enumerate(zip(contexts, letters, strict=True))
    ]
    assert head.loss(hidden, batch).item() == pytest.approx(-sum(chances), abs=1e-4)
    wrong = replace(batch, ends=batch.starts)
    assert head.loss(hidden, wrong).item() != pytest.approx(-sum(chances), abs=1e-2)


@pytest.mark.parametrize("max_answer_tokens", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_span_scores_are_those_of_all_spans(seed: int, max_answer_tokens: int) -> None:
    head = make_head(seed)
    contexts = [(3, 9), (5, 7), (4, 5), (2, 8), (11, 12)]
    batch = windows(contexts, [None] * 5)
    hidden = torch.randn(5, WIDTH, HIDDEN)
    with torch.no_grad():
        found = head.span_scores(hidden, batch, 200, max_answer_tokens)
    for i, (begin, beyond) in enumerate(contexts):
        size, chances = beyond - begin, paths_of(head, hidden[i, begin:beyond])
        expected = {
            (begin + a, begin + b): chances[span_letters(a, b, size)]
            for a in range(size)
            for b in range(a, min(size, a + max_answer_tokens))
        }
        is_real = np.isfinite(found.scores[i])
        spans = zip(found.firsts[i][is_real], found.lasts[i][is_real], strict=True)
        scores = found.scores[i][is_real]
        assert dict(zip(spans, scores, strict=True)) == pytest.approx(expected, abs=1e-4)
        assert (np.diff(scores) <= 0).all()
        assert found.nulls[i] == pytest.approx(chances["O" * size], abs=1e-4)
        if max_answer_tokens >= size:  # the best of spans and null is the best legal path
            legal = {p: c for p, c in chances.items() if p.count("B") <= 1}
            best = max(legal, key=lambda p: legal[p])
            first, last = found.firsts[i, 0] - begin, found.lasts[i, 0] - begin
            is_null = found.nulls[i] > found.scores[i, 0]
            assert best == ("O" * size if is_null else span_letters(first, last, size))
    with torch.no_grad():
        few = head.span_scores(hidden, batch, 2, max_answer_tokens)
    assert np.array_equal(few.scores, found.scores[:, :2])
    assert few.classes.shape == (5, 0)


def test_windows_compare_by_the_normalised_score() -> None:
    """Raw scores grow with a window's length and with what is added to each label; log p
    doesn't."""
    head = make_head()
    batch, hidden = windows([(3, 9)], [None]), torch.randn(1, WIDTH, HIDDEN)
    with torch.no_grad():
        before = head.span_scores(hidden, batch, 5, 5)
        head.label_outputs.bias += 7.0
        after = head.span_scores(hidden, batch, 5, 5)
        head.label_outputs.bias[1] += 1.0
        other = head.span_scores(hidden, batch, 5, 5)
    np.testing.assert_allclose(before.scores, after.scores, atol=1e-4)
    np.testing.assert_allclose(before.nulls, after.nulls, atol=1e-4)
    assert abs(before.nulls - other.nulls).max() > 1e-2


def test_a_window_without_context_has_no_span_and_no_holes() -> None:
    head = make_head()
    batch = windows([(4, 4), (4, 6)], [None, (4, 5)])
    hidden = torch.randn(2, WIDTH, HIDDEN, requires_grad=True)
    head.loss(hidden, batch).backward()
    assert hidden.grad is not None and torch.isfinite(hidden.grad).all()
    assert not hidden.grad[1, 6:].any() and not hidden.grad[1, :4].any()
    with torch.no_grad():
        found = head.span_scores(hidden, batch, 3, 5)
    assert np.isneginf(found.scores[0]).all()
    assert np.isfinite(found.scores[1]).all()


def test_a_recipe_builds_it_from_the_seed_alone(encoders: dict[str, str]) -> None:
    def parameters(seed: int) -> list[torch.Tensor]:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever drew before
        head = build(Model(name=encoders["bert"], head="span_crf"), 0, seed).heads[0]
        assert isinstance(head, SpanCrfHead)
        return [head.label_outputs.weight, head.crf.transitions]

    first, again, other = parameters(1), parameters(1), parameters(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_it_learns_a_span_and_a_null_window() -> None:
    head = make_head()
    batch = windows([(3, 9), (3, 9)], [(5, 6), None])
    hidden = torch.randn(2, WIDTH, HIDDEN)
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = head.loss(hidden, batch)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = head.span_scores(hidden, batch, 1, 5)
    assert loss.item() < 0.5
    assert (found.firsts[0, 0], found.lasts[0, 0]) == (5, 6)
    assert found.scores[0, 0] > found.nulls[0] and found.scores[1, 0] < found.nulls[1]
