"""Checkpoints: save, find, verify, load and prune the folders checkpoints/step-00004000/.

Each holds model.safetensors, optimizer.safetensors, train_state.json and, last, MANIFEST.json with
sizes, sha256 and whose it is. Written under ".step-00004000.<attempt>.tmp", fsynced, renamed, then
marked; believed only with a marker, read only after verification, ordered by step, never by time.
Nothing is ever unpickled. Knows nothing of training: states come and go as flat dicts of tensors.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from qa_dist import faults, files
from qa_dist.code_version import code_version
from qa_dist.files import BrokenFileError
from qa_dist.records import InputError
from qa_dist.run_dir import step_name
from qa_dist.tensor_files import read_tensors, write_tensors

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
TRAIN_STATE = "train_state.json"
_OURS = (MODEL, OPTIMIZER, TRAIN_STATE)
_STEP = re.compile(r"step-(\d{8,})")
_TEMPORARY = re.compile(r"\.step-\d{8,}\.(\d+)\.tmp")
_RETRY_S = 0.5

State = Mapping[str, Tensor]
Identity = Mapping[str, str]
Warn = Callable[[str], None]


class SaveError(OSError):
    """A checkpoint could not be written (disk full, over quota); earlier ones are untouched."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved; all tensors are on the CPU and in memory, not mapped from the file."""

    step: int
    model_state: dict[str, Tensor]
    optimizer_state: dict[str, Tensor]
    train_state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    model_state: State,
    optimizer_state: State,
    train_state: Mapping[str, Any],
    identity: Identity,
    attempt: int,
    extra_files: Mapping[str, str] | None = None,
    check_fence: Callable[[], None] = lambda: None,
) -> Path:
    """Write `folder`/step-<step> and return it; a no-op if it is there, whole and ours already.

    `identity` (run id, recipe hash, ...) is what find_checkpoint() compares. `check_fence` is
    called before anything gets its final name, and raises if a newer attempt has taken over.
    Raises SaveError when the disk is full; the same state always gives the same bytes.
    """
    final = folder / step_name(step)
    with contextlib.suppress(BrokenFileError):
        _verify(final, identity, hashes=True)
        return final
    states = {MODEL: model_state, OPTIMIZER: optimizer_state}
    texts = {**(extra_files or {}), TRAIN_STATE: json.dumps(train_state, indent=2) + "\n"}
    temporary = folder / f".{final.name}.{attempt}.tmp"
    was_renamed = False
    try:
        _write_files(temporary, step, states, texts)
        check_fence()
        files.delete_folder(final)  # unmarked or broken, as seen above
        temporary.rename(final)
        was_renamed = True
        files.sync_folder(folder)
        faults.reach("checkpoint.after_rename", step)
        check_fence()
        facts = {"step": step, "attempt": attempt, "identity": dict(identity)}
        hashed = _facts_sha256(facts)
        files.write_marker(final, **facts, code=code_version(), facts_sha256=hashed)
        faults.reach("checkpoint.after_marker", step)
    except OSError as error:
        _delete_quietly(temporary)
        if was_renamed and not (final / files.MARKER).exists():
            _delete_quietly(final)
        raise _save_error(final, states, error) from error
    return final


def _write_files(
    temporary: Path, step: int, states: Mapping[str, State], texts: Mapping[str, str]
) -> None:
    """Write all files of a checkpoint, fsynced, into a new folder `temporary`."""
    faults.reach("checkpoint.before_files", step)
    files.delete_folder(temporary)  # of this attempt's last try
    temporary.mkdir(parents=True, mode=0o700)
    for name, state in states.items():
        write_tensors(temporary / name, state)
        if name == MODEL:
            faults.reach("checkpoint.mid_file", step)
    for name, text in texts.items():
        files.write_text(temporary / name, text)
    files.sync_folder(temporary)
    faults.reach("checkpoint.after_files", step)


def _facts_sha256(marker: Mapping[str, Any]) -> str:
    """Return what tells a damaged marker (skipped) from one of another run (refused)."""
    facts = [marker.get(name) for name in ("step", "attempt", "identity")]
    return hashlib.sha256(files.canonical_json(facts).encode()).hexdigest()


def _save_error(final: Path, states: Mapping[str, State], error: OSError) -> SaveError:
    """Say which path, how much it needs, and how much is free now that the remains are gone."""
    tensors = [tensor for state in states.values() for tensor in state.values()]
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    free = "free space is unknown"
    with contextlib.suppress(OSError):
        free = f"{shutil.disk_usage(final.parent).free:,} bytes are free"
    return SaveError(
        error.errno or errno.EIO,
        f"checkpoint not written: {error.strerror or error}. It needs {needed:,} bytes, {free}. "
        "Earlier ones are intact: make room and start the run again, it goes on from there",
        str(final),
    )


def list_steps(folder: Path) -> list[int]:
    """Return the steps of all finished checkpoints, ascending; sizes are verified, hashes not."""
    return [step for step in _steps_there(folder) if _is_whole(folder / step_name(step), False)]


def find_checkpoint(
    folder: Path, identity: Identity, warn: Warn, *, is_expected: bool, wait_s: float = 10.0
) -> Path | None:
    """Return the newest checkpoint whose files verify; None if the run never had one.

    `is_expected`: the run's history (run.json, status) says that there was one; then None is never
    returned. Broken checkpoints are skipped with a warning that names the file. Raises InputError
    if the newest whole one is another run's, or if none is whole although some were finished.
    A folder that can't be read, or an expected one that isn't there, is waited for up to `wait_s`.
    """
    problems: list[str] = []
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            path, was_finished = _find_newest(folder, identity, warn, problems)
            if path or not (was_finished or is_expected):
                return path
        except OSError as error:
            problems.append(f"{folder}: {error}")
        if time.monotonic() >= give_up_at:
            raise InputError(
                f"{folder}: holds no valid checkpoint, although this run had one. It refuses to "
                "start again from step 0: restore one, or give fresh=true to begin anew."
                + "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
            )
        time.sleep(_RETRY_S)


def load_checkpoint(path: Path, hashes: bool = True) -> Checkpoint:
    """Verify and read one checkpoint; `hashes=False` only right after find_checkpoint() hashed it.

    Raises BrokenFileError naming the file.
    """
    marker = _verify(path, None, hashes)
    return Checkpoint(
        step=marker["step"],
        model_state=read_tensors(path / MODEL),
        optimizer_state=read_tensors(path / OPTIMIZER),
        train_state=files.read_json(path / TRAIN_STATE),
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Keep one checkpoint from being deleted by prune_checkpoints(), however this process ends.

    A lock on its marker, shared by all who read. Raises BrokenFileError if there is no marker.
    """
    try:
        stream = (path / files.MARKER).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenFileError(
            f"{path}: has no {files.MARKER}; it was deleted, or never finished"
        ) from None
    with stream:
        with contextlib.suppress(OSError):  # no locks here, but reading goes on
            fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def load_model_state(path: Path) -> dict[str, Tensor]:
    """Verify and read the weights alone, e.g. to evaluate; the optimizer is not even hashed.

    Raises BrokenFileError naming the file.
    """
    marker = _verify(path, None, hashes=False)
    if weights_sha256(path) != marker["files"][MODEL]["sha256"]:
        raise BrokenFileError(f"{path / MODEL}: its sha256 differs from the one in {files.MARKER}")
    return read_tensors(path / MODEL)


def weights_sha256(path: Path) -> str:
    """Return the sha256 of the weights' file: the same for equal weights, and only for them."""
    return files.file_sha256(path / MODEL)


def _find_newest(
    folder: Path, identity: Identity, warn: Warn, problems: list[str]
) -> tuple[Path | None, bool]:
    """Return the newest whole checkpoint, and whether any that is newer or broken was finished.

    Appends to `problems`, and warns of those that are new there.
    """
    was_finished = False
    for step in reversed(_steps_there(folder)):
        path = folder / step_name(step)
        try:
            _verify(path, identity, hashes=True)
            return path, was_finished
        except BrokenFileError as error:
            # Without a marker it was killed half-way: the first save of a run may leave just that.
            was_finished |= (path / files.MARKER).exists()
            if str(error) not in problems:
                problems.append(str(error))
                warn(f"skipping a checkpoint: {error}")
    return None, was_finished


def _verify(path: Path, identity: Identity | None, hashes: bool) -> dict[str, Any]:
    """Return the marker of a whole checkpoint.

    Raises BrokenFileError naming the file; InputError if it is whole, but not `identity`'s.
    """
    if path.is_symlink():
        raise BrokenFileError(f"{path}: is a symbolic link; checkpoints are real folders")
    marker = files.read_marker(path)
    if marker is not None:
        _check_marker(path, marker)
        if identity is not None:
            _check_identity(path, marker["identity"], identity)
    return files.verify_folder(path, hashes)


def _check_marker(path: Path, marker: Mapping[str, Any]) -> None:
    """Raise BrokenFileError if the marker was damaged, or leads to files outside its folder."""
    problem = ""
    if marker.get("facts_sha256") != _facts_sha256(marker):
        problem = "doesn't fit its own sha256"
    elif step_name(marker["step"]) != path.name:
        problem = f"is that of step {marker['step']}"
    elif unlisted := set(_OURS) - set(marker["files"]):
        problem = f"doesn't list {min(unlisted)}"
    for name, facts in marker["files"].items():
        is_fact = isinstance(facts, dict) and {"bytes", "sha256"} <= set(facts)
        if not is_fact or name != Path(name).name or (path / name).is_symlink():
            problem = f"its entry {name!r} can't be believed"
    if problem:
        raise BrokenFileError(f"{path / files.MARKER}: {problem}")


def _check_identity(path: Path, there: Identity, asked: Identity) -> None:
    keys = [key for key in sorted({*there, *asked}) if there.get(key) != asked.get(key)]
    if keys:
        lines = [f"\n  {key}: {there.get(key)} there, {asked.get(key)} here" for key in keys]
        raise InputError(
            f"{path}: belongs to another run. Give this one another name=, or move it away."
            + "".join(lines)
        )


def prune_checkpoints(
    folder: Path,
    keep_last: int,
    best_step: int | None,
    protected: Container[int] = (),
    *,
    attempt: int,
    verified_step: int | None = None,
) -> list[int]:
    """Delete all but the newest `keep_last` whole checkpoints, `best_step` and `protected`.

    Only what is older than a verified one, and what nobody is reading(), goes: `verified_step`
    (just written or found by this process) is verified by its sizes, any other by its hashes.
    Remains of killed saves (unmarked folders, temporary ones of attempts up to `attempt`) go too.
    Returns the steps that are gone; one that can't be deleted now (a file is still open, on NFS) is
    left unmarked for the next time.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last={keep_last}: at least one checkpoint has to stay")
    whole = list_steps(folder)
    while whole and whole[-1] != verified_step and not _is_whole(folder / step_name(whole[-1])):
        whole.pop()
    deleted = []
    kept = {*whole[-keep_last:], best_step}
    for step in _steps_there(folder) if whole else []:
        if step < whole[-1] and step not in kept and step not in protected:
            with contextlib.suppress(OSError):
                _delete_checkpoint(folder / step_name(step), step)
                deleted.append(step)
    for path in folder.iterdir() if folder.is_dir() else []:
        match = _TEMPORARY.fullmatch(path.name)
        if match and int(match[1]) <= attempt:
            _delete_quietly(path)
    return deleted


def _delete_checkpoint(path: Path, step: int) -> None:
    """Un-mark, then delete; a link is removed, what it points to is not. Raises BlockingIOError if
    somebody reads it."""
    if not path.is_symlink():
        with contextlib.suppress(FileNotFoundError), (path / files.MARKER).open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (path / files.MARKER).unlink()
        files.sync_folder(path)
        faults.reach("rotate.after_unmark", step)
        (path / OPTIMIZER).unlink(missing_ok=True)
        faults.reach("rotate.mid_rmtree", step)
    files.delete_folder(path)


def _delete_quietly(path: Path) -> None:
    """Delete what no one believes; what stays behind is removed by a later save or prune."""
    with contextlib.suppress(OSError):
        files.delete_folder(path)


def _steps_there(folder: Path) -> list[int]:
    """Return the steps of all folders (and links) that are named like a checkpoint, ascending."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir() or path.is_symlink()]
    except FileNotFoundError:
        return []
    steps = [int(match[1]) for name in names if (match := _STEP.fullmatch(name))]
    return sorted(step for step in steps if step_name(step) in names)


def _is_whole(path: Path, hashes: bool = True) -> bool:
    try:
        _verify(path, None, hashes)
    except BrokenFileError:
        return False
    return True
