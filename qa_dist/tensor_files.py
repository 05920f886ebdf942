"""Named tensors in safetensors files: written fsynced, read into memory. Nothing is ever
unpickled."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write `path`, fsynced; the same tensors always give the same bytes. Other threads go on
    meanwhile.

    Tied tensors are written under each of their names. Raises OSError.
    """
    seen: set[int] = set()
    tensors = {}
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        # save_file refuses tensors that share memory (tied weights, views of a flat buffer).
        tensors[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # It reports I/O errors as text: "... No space left on device (os error 28)".
        if match := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(match[1]), os.strerror(int(match[1])), str(path)) from error
        raise
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU."""
    # Copies: mapped memory would fault if the file were pruned from another node (NFS).
    return {name: tensor.clone() for name, tensor in load_file(path).items()}
