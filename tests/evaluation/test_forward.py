"""Batches of like length hold each window once; hidden states come in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_encoders import build, make_batch

from qa_dist.evaluation.forward import Forward, batches_by_length
from qa_dist.recipe import Model
from qa_dist.records import PAD_MULTIPLE


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(8, 2000))
def test_each_window_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    sizes = np.array(lengths, dtype=np.uint16)
    batches = list(batches_by_length(sizes, budget))
    assert sorted(window for batch in batches for window in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[window] for window in batch)
        width = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
        assert len(batch) == 1 or len(batch) * width <= budget


def test_a_batch_holds_windows_of_like_length() -> None:
    lengths = np.array([5, 300, 6, 290] * 10, dtype=np.uint16)
    spreads = [np.ptp(lengths[batch]) for batch in batches_by_length(lengths, 1600)]
    assert max(spreads) <= 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_hidden_states_are_fp32_computed_in_the_runs_precision(
    tiny_encoder: Path, precision: str
) -> None:
    model = build(Model(name=str(tiny_encoder)), 0, seed=0).eval()
    batch = make_batch(0)
    forward = Forward(model, 0, torch.device("cpu"), precision)
    with torch.no_grad():
        hidden, exact = forward.hidden(batch), model.hidden(batch)
    assert hidden.dtype == torch.float32 and forward.pad_multiple == 1
    assert forward.head is model.heads[0]
    assert torch.equal(hidden, exact) == (precision == "fp32")
    torch.testing.assert_close(hidden, exact, atol=0.1, rtol=0.1)
