"""One rank alone, in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qa_dist.training.engine import Engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    engine = Engine("fp32")
    yield engine
    engine.close()
    torch.set_num_threads(threads)
