"""Real deaths and a really full disk while checkpoints are written and deleted (T4, T5, T20, T23).

The child that dies is forked after torch is imported: a real process and a real SIGKILL, without
seconds of imports for each.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from qa_dist import faults, files
from qa_dist.checkpoint import (
    MODEL,
    SaveError,
    find_checkpoint,
    list_steps,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    weights_sha256,
)
from qa_dist.records import InputError
from qa_dist.run_dir import step_name
from qa_dist.scalars import ScalarWriter

IDENTITY = {"run_id": "run-a"}
SAVE_POINTS = ("before_files", "mid_file", "after_files", "after_rename", "after_marker")
ROTATE_POINTS = ("after_unmark", "mid_rmtree")
LAST_STEP = 12


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "faults.log"
    monkeypatch.setenv(faults.LOG_VARIABLE, str(path))
    yield path
    faults.arm("")


def run_child(fault: str, work: Callable[[], object]) -> int:
    """Run `work` in a forked process that injects `fault`; return its exit code (-9: killed)."""
    child = os.fork()
    if child == 0:
        try:
            faults.arm(fault)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    for _ in range(3000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError("the child hung")


def fired(log: Path) -> list[tuple[str, int]]:
    return [(firing["point"], firing["step"]) for firing in faults.read_log(log)]


def save(folder: Path, step: int, attempt: int = 0) -> Path:
    state = {"weight": torch.full((4,), float(step))}
    return save_checkpoint(folder, step, state, state, {"step": step}, IDENTITY, attempt)


def find(folder: Path, is_expected: bool = True) -> tuple[Path | None, list[str]]:
    warnings: list[str] = []
    path = find_checkpoint(folder, IDENTITY, warnings.append, is_expected=is_expected, wait_s=0)
    return path, warnings


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ---- Death while saving ----


@pytest.mark.parametrize("point", SAVE_POINTS)
def test_t04_kill_during_checkpoint(point: str, tmp_path: Path, log: Path) -> None:
    folder = tmp_path / "checkpoints"
    older = save(folder, 1)
    fault = f"point=checkpoint.{point};step=2;action=kill9"
    assert run_child(fault, lambda: save(folder, 2)) == -signal.SIGKILL
    assert fired(log) == [(f"checkpoint.{point}", 2)]

    has_temporary = any(name.startswith(".step-00000002") for name in names(folder))
    assert has_temporary == (point in ("mid_file", "after_files")), "control: it was half-way"

    path, warnings = find(folder)
    if point == "after_marker":
        assert path == folder / step_name(2) and not warnings
    else:
        assert path == older
        assert bool(warnings) == (point == "after_rename")
    assert load_checkpoint(older).step == 1

    newer = save(folder, 2, attempt=1)
    assert find(folder) == (newer, [])
    prune_checkpoints(folder, 2, None, attempt=1, verified_step=2)
    assert names(folder) == [older.name, newer.name], "no leftovers"


def test_t04_control_what_a_reader_without_markers_would_choose(tmp_path: Path, log: Path) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    fault = "point=checkpoint.after_rename;action=kill9"
    assert run_child(fault, lambda: save(folder, 2)) == -signal.SIGKILL
    assert fired(log) == [("checkpoint.after_rename", 2)]
    assert max(names(folder)) == step_name(2) and (folder / step_name(2) / MODEL).is_file()
    assert not (folder / step_name(2) / files.MARKER).exists()
    assert list_steps(folder) == [1]


@pytest.mark.parametrize("point", SAVE_POINTS[:4])
def test_t04_kill_during_the_very_first_checkpoint(point: str, tmp_path: Path, log: Path) -> None:
    """There never was one, so starting from step 0 is right; with a history it is refused (S18)."""
    folder = tmp_path / "checkpoints"
    fault = f"point=checkpoint.{point};action=kill9"
    assert run_child(fault, lambda: save(folder, 1)) == -signal.SIGKILL
    assert fired(log) == [(f"checkpoint.{point}", 1)]
    assert find(folder, is_expected=False)[0] is None
    with pytest.raises(InputError, match="refuses to start again from step 0"):
        find(folder)
    assert find(folder)[0] if save(folder, 1, attempt=1) else None


def test_t04_kill_at_a_random_moment_of_a_save(tmp_path: Path) -> None:
    """No injection: from outside, in the middle of files as well as between them."""
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    big = {"weight": torch.ones(1 << 20)}
    num_half_way = 0
    for trial in range(12):
        child = os.fork()
        if child == 0:
            save_checkpoint(folder, 2, big, big, {}, IDENTITY, trial)
            os._exit(0)
        while names(folder) == [step_name(1)]:
            time.sleep(0)
        time.sleep(0.001 * trial)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        num_half_way += any(name.startswith(".") for name in names(folder))
        path, _ = find(folder)
        assert path is not None
        assert step_name(load_checkpoint(path).step) == path.name
        for remains in [*folder.glob(".step-*"), folder / step_name(2)]:
            files.delete_folder(remains)
    assert num_half_way > 0, "control: some kill came in the middle"
    newer = save_checkpoint(folder, 2, big, big, {}, IDENTITY, 99)
    prune_checkpoints(folder, 1, None, attempt=99)
    assert names(folder) == [newer.name]


# ---- Death while rotating ----


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("point", ROTATE_POINTS)
def test_t05_kill_during_rotation(point: str, keep: int, tmp_path: Path, log: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in range(1, 5):
        save(folder, step)
    for deaths in range(1, 5 - keep):
        fault = f"point=rotate.{point};action=kill9"
        status = run_child(fault, lambda: prune_checkpoints(folder, keep, None, attempt=0))
        assert status == -signal.SIGKILL
        assert fired(log)[-1][0] == f"rotate.{point}" and len(fired(log)) == deaths
        assert not (folder / step_name(fired(log)[-1][1]) / files.MARKER).exists(), (
            "un-marked first"
        )
        assert find(folder) == (folder / step_name(4), [])
        assert len(list_steps(folder)) >= keep
        if deaths == 1:
            assert prune_checkpoints(folder, 3, None, attempt=0) == [1], "leftovers go next time"
        assert list_steps(folder)[-keep:] == list(range(5 - keep, 5))
    prune_checkpoints(folder, keep, None, attempt=0)
    assert names(folder) == [step_name(step) for step in range(5 - keep, 5)]


@pytest.mark.parametrize(
    ("point", "keep"),
    [*((f"checkpoint.{point}", 1) for point in SAVE_POINTS), ("checkpoint.after_rename", 2)],
)
def test_t05_save_and_rotate_again_and_again(
    point: str, keep: int, tmp_path: Path, log: Path
) -> None:
    """At each step the process dies once while saving, and once while rotating."""
    folder = tmp_path / "checkpoints"
    save(folder, 1)

    def step_of_a_run(step: int, attempt: int) -> None:
        save(folder, step, attempt)
        prune_checkpoints(folder, keep, None, attempt=attempt, verified_step=step)

    deaths = 0
    for step in (2, 3):
        for attempt, fault in enumerate((point, "rotate.after_unmark", "rotate.mid_rmtree")):
            spec = f"point={fault};action=kill9"
            status = run_child(spec, partial(step_of_a_run, step, attempt))
            deaths += status == -signal.SIGKILL
            assert status in (0, -signal.SIGKILL)
            path, _ = find(folder)
            assert path is not None and load_checkpoint(path).step in (step - 1, step)
        step_of_a_run(step, attempt=3)
        assert find(folder) == (folder / step_name(step), [])
    assert deaths == len(fired(log)) >= (4 if keep == 1 else 3)
    assert names(folder) == [step_name(step) for step in range(4 - keep, 4)]


# ---- Equal: a small optimizer with momentum, killed and resumed ----


def train(root: Path, attempt: int, with_optimizer: bool = True) -> None:
    """Momentum descent whose gradient and learning rate are functions of the step alone."""
    weight, momentum, start = torch.ones(5), torch.zeros(5), 0
    path, _ = find(root / "checkpoints", is_expected=False)
    if path:
        loaded = load_checkpoint(path, hashes=False)
        weight, start = loaded.model_state["weight"], loaded.step
        momentum = loaded.optimizer_state["momentum"] if with_optimizer else momentum
    with ScalarWriter(root / "tensorboard", root / "scalars.jsonl", start) as scalars:
        for step in range(start + 1, LAST_STEP + 1):
            generator = torch.Generator().manual_seed(step)
            momentum = 0.9 * momentum + weight * torch.rand(5, generator=generator)
            weight = weight - 0.1 / step * momentum
            scalars.write(step, {"loss": float(weight.square().sum())})
            faults.reach("train.step", step)
            if step % 3 == 0:
                folder, state = root / "checkpoints", {"momentum": momentum}
                save_checkpoint(folder, step, {"weight": weight}, state, {}, IDENTITY, attempt)
                prune_checkpoints(folder, 1, None, attempt=attempt, verified_step=step)


FAULTS = (
    *(f"point=checkpoint.{point};step=9" for point in SAVE_POINTS),
    "point=checkpoint.after_rename;step=3",
    *(f"point=rotate.{point};step={step}" for point in ROTATE_POINTS for step in (3, 6)),
    "point=train.step;step=8",
)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """An uninterrupted run."""
    train(tmp_path / "whole", 0)
    return tmp_path / "whole"


@pytest.mark.parametrize("fault", FAULTS)
def test_t04_equal_after_a_kill(fault: str, tmp_path: Path, log: Path, whole: Path) -> None:
    root = tmp_path / "killed"
    assert run_child(f"{fault};action=kill9", lambda: train(root, 0)) == -signal.SIGKILL
    assert len(fired(log)) == 1
    train(root, 1)
    assert_equal(root, whole)


def test_t20_equal_after_several_kills(tmp_path: Path, log: Path, whole: Path) -> None:
    root = tmp_path / "killed"
    for attempt, step in enumerate((2, 5, 8, 11)):
        fault = f"point=train.step;step={step};action=kill9"
        assert run_child(fault, partial(train, root, attempt)) == -signal.SIGKILL
    assert [step for _, step in fired(log)] == [2, 5, 8, 11]
    train(root, 4)
    assert_equal(root, whole)


def test_equal_control_without_the_optimizer_state(tmp_path: Path, log: Path, whole: Path) -> None:
    root = tmp_path / "killed"
    run_child("point=train.step;step=8;action=kill9", lambda: train(root, 0))
    assert fired(log) == [("train.step", 8)]
    train(root, 1, with_optimizer=False)
    with pytest.raises(AssertionError):
        assert_equal(root, whole)


def assert_equal(root: Path, whole: Path) -> None:
    """Weights, optimizer and curve, to the last bit; and no leftovers."""
    assert names(root / "checkpoints") == names(whole / "checkpoints") == [step_name(LAST_STEP)]
    paths = [folder / "checkpoints" / step_name(LAST_STEP) for folder in (root, whole)]
    assert weights_sha256(paths[0]) == weights_sha256(paths[1])
    first, second = (load_checkpoint(path).optimizer_state["momentum"] for path in paths)
    assert torch.equal(first, second)
    assert (root / "scalars.jsonl").read_bytes() == (whole / "scalars.jsonl").read_bytes()


# ---- A disk that is really full ----


def test_t23_file_size_limit(tmp_path: Path) -> None:
    """A limit of the operating system, not an injection: the write itself fails half-way."""
    folder = tmp_path / "checkpoints"
    older = save(folder, 1)
    big = {"weight": torch.ones(1 << 16)}

    def save_within_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))
        with pytest.raises(SaveError, match=r"checkpoint not written: File too large.*262,144"):
            save_checkpoint(folder, 2, big, {}, {}, IDENTITY, 0)

    assert run_child("", save_within_limit) == 0
    assert names(folder) == [older.name]
    assert find(folder) == (older, [])


def test_t23_full_file_system(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs; test_t23_file_size_limit covers the path")
    try:
        older = save(folder, 1)
        filler = folder / "filler"
        filler.write_bytes(b"\0" * 600_000)
        big = {"weight": torch.ones(1 << 16)}
        with pytest.raises(
            SaveError, match=r"No space left .*524,288 bytes, [\d,]+ bytes are free"
        ):
            save_checkpoint(folder, 2, big, big, {}, IDENTITY, 0)
        assert names(folder) == ["filler", older.name]
        assert find(folder) == (older, [])
        filler.unlink()
        newer = save_checkpoint(folder, 2, big, big, {}, IDENTITY, 0)
        assert find(folder) == (newer, [])
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_t23_no_space_while_saving_then_resumed(tmp_path: Path, log: Path, whole: Path) -> None:
    root = tmp_path / "full"
    faults.arm("point=checkpoint.mid_file;step=6;action=enospc")
    with pytest.raises(SaveError) as error:
        train(root, 0)
    assert error.value.errno == errno.ENOSPC
    assert fired(log) == [("checkpoint.mid_file", 6)]
    train(root, 1)
    assert_equal(root, whole)
