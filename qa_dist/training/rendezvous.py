"""How the ranks of a job find each other: rank 0 opens a port and writes its address to a file that
all of them see.

No port is agreed on beforehand, so none can be taken; no node's name has to resolve. The file is
named by the attempt, so what an earlier one left is never read. In: QA_DIST_RENDEZVOUS, the file's
path; QA_DIST_INTERFACE, the network interface to listen on (else the default route's).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from qa_dist.files import read_json_if_there, write_json
from qa_dist.records import InputError

VARIABLE = "QA_DIST_RENDEZVOUS"
PATTERN = "rendezvous-*.json"
"""Of the file's name, for jobs that leave one behind when they are killed."""
INTERFACE_VARIABLE = "QA_DIST_INTERFACE"
_POLL_S = 0.1
_POLL_MOST_S = 2.0  # thousands of ranks may look at one folder of a network file system


class MissingRankError(Exception):
    """Some ranks didn't come in time; the message names them."""


def join(
    path: Path,
    backend: str,
    rank: int,
    world_size: int,
    timeout: timedelta,
    patience: timedelta | None = None,
) -> None:
    """Start the process group of all ranks, whose calls wait for a peer until `timeout`.

    Raises MissingRankError if some didn't come within `patience` (else `timeout`, too): nodes start
    at different speeds.
    """
    patience = patience or timeout
    if rank == 0:
        for old in path.parent.glob(PATTERN):  # of starts that were killed while they met
            old.unlink(missing_ok=True)
        store = TCPStore("0.0.0.0", 0, world_size, True, timeout=patience, wait_for_workers=False)
        address, port = own_address(), store.port
        write_json(path, {"address": address, "port": port})
    else:
        address, port = _read_address(path, rank, patience)
        store = TCPStore(address, port, world_size, False, timeout=patience, wait_for_workers=False)
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))  # libraries look for them
    store.set(f"here/{rank}", socket.gethostname())
    if rank == 0:
        _wait_for_all(store, world_size, patience)
        path.unlink()
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _look(path: Path) -> dict[str, Any] | None:
    with suppress(FileNotFoundError):
        list(path.parent.iterdir())  # NFS remembers for a while that a file wasn't there
    there: dict[str, Any] | None = read_json_if_there(path)
    return there


def _read_address(path: Path, rank: int, timeout: timedelta) -> tuple[str, int]:
    give_up_at = time.monotonic() + timeout.total_seconds()
    wait_s = _POLL_S
    while (there := _look(path)) is None:
        if time.monotonic() > give_up_at:
            raise MissingRankError(
                f"rank {rank} on {socket.gethostname()} waited {timeout.total_seconds():.0f} s in "
                f"vain for rank 0's address in {path}: rank 0 didn't start, or this node doesn't "
                "see that folder"
            )
        time.sleep(wait_s)
        wait_s = min(_POLL_MOST_S, 1.2 * wait_s)
    return str(there["address"]), int(there["port"])


def _wait_for_all(store: TCPStore, world_size: int, timeout: timedelta) -> None:
    try:
        store.wait([f"here/{rank}" for rank in range(world_size)], timeout)
    except (RuntimeError, ValueError) as error:
        missing = [r for r in range(world_size) if not store.check([f"here/{r}"])]
        raise MissingRankError(
            f"ranks {', '.join(map(str, missing))} of {world_size} didn't come within "
            f"{timeout.total_seconds():.0f} s: did their nodes start? can they reach "
            f"{own_address()}, port {store.port}? (master_interface of the profile chooses the "
            "network)"
        ) from error


def own_address() -> str:
    """Return the IPv4 address under which other nodes reach this one."""
    interface = os.environ.get(INTERFACE_VARIABLE, "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if interface:
            return _interface_address(probe, interface)
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the default route's interface
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _interface_address(probe: socket.socket, interface: str) -> str:
    import fcntl

    siocgifaddr = 0x8915
    try:
        answer = fcntl.ioctl(probe, siocgifaddr, struct.pack("256s", interface.encode()[:15]))
    except OSError as error:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise InputError(
            f"master_interface={interface}: {socket.gethostname()} has no such network interface "
            f"with an address ({error.strerror}); it has {names}"
        ) from error
    return socket.inet_ntoa(answer[20:24])
