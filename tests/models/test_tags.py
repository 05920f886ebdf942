"""The tag head: its size, and its loss by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qa_dist.data.collate import NO_TARGET
from qa_dist.models.tags import TagHead


def make_batch(labels: list[list[int]] | None) -> Any:
    return SimpleNamespace(labels=None if labels is None else torch.tensor(labels))


def test_size_of_bert_bases_head_for_conll_2003() -> None:
    assert sum(p.numel() for p in TagHead(768, 9).parameters()) == 6921


def test_loss_is_summed_over_the_labelled_tokens() -> None:
    torch.manual_seed(0)
    head = TagHead(4, 3).eval()
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    labels = [[NO_TARGET, 2, NO_TARGET], [0, NO_TARGET, 1]]
    loss = head.loss(hidden, make_batch(labels))
    logits = hidden @ head.classifier.weight.T + head.classifier.bias
    assert torch.equal(head.logits(hidden), head.classifier(hidden))
    log_shares = logits.log_softmax(-1)
    assert loss.item() == pytest.approx(
        -(log_shares[0, 1, 2] + log_shares[1, 0, 0] + log_shares[1, 2, 1]).item(), rel=1e-6
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert (hidden.grad != 0).any(-1).tolist() == [[False, True, False], [True, False, True]]


def test_windows_without_labels() -> None:
    head, hidden = TagHead(4, 3), torch.randn(1, 2, 4)
    assert head.loss(hidden, make_batch([[NO_TARGET, NO_TARGET]])).item() == 0.0
    with pytest.raises(ValueError, match="another form"):
        head.loss(hidden, make_batch(None))


def test_dropout_is_for_training() -> None:
    head, hidden = TagHead(64, 3), torch.randn(1, 2, 64)
    assert not torch.equal(head.logits(hidden), head.logits(hidden))
    head.eval()
    assert torch.equal(head.logits(hidden), head.logits(hidden))
