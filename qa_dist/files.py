"""Write so that a reader sees all or nothing, and read only what was written whole.

Write under a temporary name in the same folder, fsync, rename, and then the marker: JSON with each
file's size and sha256. Readers believe marked things only, and verify before they load. Un-mark
before deleting.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARKER = "MANIFEST.json"
_CHUNK_BYTES = 1 << 22  # beside training, each chunk waits for the interpreter once
_STALE_TRIES = 3


class BrokenFileError(Exception):
    """A marked file is missing, has another size or another sha256; the message names it."""


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: the same bytes for the same
    content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_path(path: Path) -> Path:
    """Return the name under which this process writes what becomes `path`."""
    return path.parent / f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp"


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is fsynced and renamed to `path`,
    else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that we wrote."""
    for _ in range(_STALE_TRIES):
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            if error.errno != errno.ESTALE:  # NFS: another node has just replaced it
                raise
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_if_there(path: Path) -> Any | None:
    """Read a JSON file that we wrote; None if it isn't there."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def read_status(path: Path) -> dict[str, Any]:
    """Read a heartbeat; one that isn't there, or was torn by a power cut, says nothing: {}."""
    try:
        status = read_json(path)
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return status if isinstance(status, dict) else {}


def read_setting(path: Path, name: str) -> str:
    """Return a setting of recipe.yaml or profile.yaml as we wrote it there; empty: not there.

    A YAML reader takes longer to load than all else that a status needs.
    """
    try:
        match = re.search(rf"^\s*{name}: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return match[1].strip() if match else ""


def own_process() -> dict[str, Any]:
    """Return what a heartbeat says of who writes it: the process, and its machine."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def write_status(path: Path, value: Mapping[str, Any]) -> None:
    """Write a heartbeat: atomic, but not fsynced, since the next one replaces it soon."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # the disk may be full


def write_marker(folder: Path, **facts: Any) -> dict[str, Any]:
    """Mark `folder` as whole: write MANIFEST.json, last, with size and sha256 of each file in it,
    and `facts`."""
    names = sorted(
        p.name
        for p in folder.iterdir()
        if p.is_file() and p.name != MARKER and not p.name.startswith(".")
    )
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in names
    }
    marker = {**facts, "files": files}
    write_json(folder / MARKER, marker)
    return marker


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return the marker of `folder`; None if it isn't marked (not there, or not finished)."""
    try:
        marker = read_json(folder / MARKER)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return marker if isinstance(marker, dict) and isinstance(marker.get("files"), dict) else None


def verify_folder(folder: Path, hashes: bool = True) -> dict[str, Any]:
    """Return the marker of `folder` once each file has the size (and, with `hashes`, the sha256)
    that it says.

    Raises BrokenFileError naming the folder or the file.
    """
    marker = read_marker(folder)
    if marker is None:
        raise BrokenFileError(f"{folder}: has no valid {MARKER}, so it was never finished")
    for name, facts in marker["files"].items():
        path = folder / name
        if not path.is_file():
            raise BrokenFileError(f"{path}: is missing, although {MARKER} lists it")
        num_bytes = path.stat().st_size
        if num_bytes != facts["bytes"]:
            raise BrokenFileError(f"{path}: has {num_bytes} bytes, {MARKER} says {facts['bytes']}")
        if hashes and file_sha256(path) != facts["sha256"]:
            raise BrokenFileError(
                f"{path}: its sha256 differs from the one in {MARKER}; it was changed or damaged"
            )
    return marker


def delete_folder(folder: Path) -> None:
    """Delete a marked or temporary folder: the marker goes first, so that no one believes what is
    half gone."""
    if folder.is_symlink():
        folder.unlink()
        return
    (folder / MARKER).unlink(missing_ok=True)
    if folder.exists():
        sync_folder(folder)
        shutil.rmtree(folder)
