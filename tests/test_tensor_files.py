"""Named tensors in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qa_dist.tensor_files import read_tensors, write_tensors


def test_what_is_written_comes_back_and_tied_tensors_do_too(tmp_path: Path) -> None:
    tied = torch.arange(4.0)
    state = {"b": tied, "a": tied, "part": tied[1:3], "bytes": torch.ones(2, dtype=torch.uint8)}
    write_tensors(tmp_path / "one", state)
    found = read_tensors(tmp_path / "one")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    state = {"a": torch.ones(3), "b": torch.zeros(2)}
    write_tensors(tmp_path / "one", state)
    write_tensors(tmp_path / "two", dict(reversed(state.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    write_tensors(tmp_path / "other", {**state, "b": torch.ones(2)})
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_a_path_that_cant_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_tensors(tmp_path / "gone" / "one", {"a": torch.ones(1)})
