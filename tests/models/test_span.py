"""The span head: where it lets spans begin and end, and its loss by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_encoders import build, forward, make_batch

from qa_dist.models.span import SpanHead
from qa_dist.recipe import Model

# ---- the head


def test_a_new_head_depends_on_the_seed_alone(encoders: dict[str, str]) -> None:
    def head(seed: int) -> list[torch.Tensor]:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever drew before
        head = build(Model(name=encoders["electra"]), 3, seed).heads[0]
        assert isinstance(head, SpanHead) and head.class_outputs is not None
        return [head.qa_outputs.weight, head.class_outputs.weight]

    first, again, other = head(1), head(1), head(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_building_a_model_leaves_the_generator_alone(encoders: dict[str, str]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(Model(name=encoders["distilbert"]), 3, seed=1)
    before = torch.rand(3)
    assert torch.equal(before, expected)


def test_no_span_starts_or_ends_where_none_may(encoders: dict[str, str]) -> None:
    model = build(Model(name=encoders["bert"]), 3, seed=0)
    batch = make_batch()
    for logits in forward(model, batch):
        assert torch.equal(torch.isfinite(logits[:, :8]), batch.candidate_mask)
        assert torch.isfinite(logits[:, 8:]).all(), "classes are always possible"
        assert logits.dtype == torch.float32


def test_a_class_has_one_logit_for_start_and_end(encoders: dict[str, str]) -> None:
    model = build(Model(name=encoders["bert"]), 3, seed=0)
    start, end = forward(model, make_batch())
    assert torch.equal(start[:, 8:], end[:, 8:])
    assert build(Model(name=encoders["bert"]), 0, seed=0).heads[0].class_outputs is None


# ---- the loss


def test_the_loss_of_spans_and_classes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch()  # window 0: span 4..5; window 1: class 2, at 8 + 2
    minus = float("-inf")
    start = torch.full((2, 11), minus)
    end = torch.full((2, 11), minus)
    start[0, [3, 4, 5, 6]] = torch.tensor([1.0, 2.0, 0.0, 0.0])
    end[0, [3, 4, 5, 6]] = torch.tensor([0.0, 0.0, 3.0, 1.0])
    start[1, [3, 4]] = end[1, [3, 4]] = torch.tensor([1.0, -1.0])
    start[:, 8:] = end[:, 8:] = torch.tensor([0.5, 0.0, 2.0])
    e = np.exp

    def minus_log_share(target: float, others: list[float]) -> float:
        return float(np.log(e(target) + sum(e(x) for x in others)) - target)

    start_0 = minus_log_share(2.0, [1.0, 0.0, 0.0, 0.5, 0.0, 2.0])
    end_0 = minus_log_share(3.0, [0.0, 0.0, 1.0, 0.5, 0.0, 2.0])
    both_1 = minus_log_share(2.0, [1.0, -1.0, 0.5, 0.0])
    expected = (start_0 + end_0) / 2 + both_1
    head = SpanHead(4, 3)
    monkeypatch.setattr(head, "forward", lambda hidden, batch: (start, end))
    assert float(head.loss(torch.zeros(2, 8, 4), batch)) == pytest.approx(expected, rel=1e-6)


# ---- the best spans


def test_no_span_begins_or_ends_at_the_null_position() -> None:
    torch.manual_seed(2)
    batch = make_batch(0)
    behind = replace(batch, nulls_at=np.array([7, 5]))  # as with XLNet's CLS, at the end
    behind.candidate_mask[[0, 1], [7, 5]] = True
    head = SpanHead(4, 0)
    with torch.no_grad():
        scores = head.span_scores(torch.randn(2, 8, 4), behind, n_best=20, max_answer_tokens=8)
    for row in range(2):
        found = np.isfinite(scores.scores[row])
        assert found.any()
        places = {*scores.firsts[row][found].tolist(), *scores.lasts[row][found].tolist()}
        assert int(behind.nulls_at[row]) not in places
        assert np.isfinite(scores.nulls[row])
