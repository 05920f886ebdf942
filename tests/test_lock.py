"""One holder at a time, named to the second; the kernel gives back what a dead one held."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from qa_dist.lock import locked
from qa_dist.records import InputError


def hold_in_child(path: Path, seconds: float = 30.0, nameless_s: float = 0.0) -> int:
    """Fork a process that takes the lock and keeps it, without its name in the file for the first
    `nameless_s`; return its id once it has it."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with locked(path, "test"):
                name = path.read_text()
                if nameless_s:
                    path.write_text("")
                os.write(tell, b"x")
                if nameless_s:
                    time.sleep(nameless_s)
                    path.write_text(name)
                time.sleep(seconds)
        finally:
            os._exit(0)
    os.close(tell)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "main" / "launch.lock"


@pytest.fixture(autouse=True)
def folder(path: Path) -> Path:
    path.parent.mkdir()
    return path.parent


def test_the_second_is_told_who_holds_it_and_what_to_do(path: Path) -> None:
    child = hold_in_child(path)
    try:
        with (
            pytest.raises(InputError) as caught,
            locked(path, "this run is being launched"),
        ):
            pass
        message = str(caught.value)
        assert message.startswith(
            f"{path.parent}: this run is being launched by process {child} on "
        )
        assert os.uname().nodename in message
        assert "kill -TERM" in message and "name=..." in message
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("nameless_s", [0.3, 3.0])
def test_a_holder_that_has_just_taken_it_is_named_all_the_same(
    path: Path, nameless_s: float
) -> None:
    child = hold_in_child(path, nameless_s=nameless_s)
    try:
        with pytest.raises(InputError) as caught, locked(path, "held"):
            pass
        name = f"process {child} on" if nameless_s < 1 else "another process."
        assert f"held by {name}" in str(caught.value)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_that_is_giving_it_back_is_waited_for(path: Path) -> None:
    child = hold_in_child(path, seconds=0.0, nameless_s=0.3)
    with locked(path, "test"):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    os.waitpid(child, 0)


def test_a_killed_holder_gives_it_back_at_once(path: Path) -> None:
    child = hold_in_child(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert f"process {child}" in path.read_text(), "control: its name is still in the file"
    with locked(path, "test"):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
        assert str(child) not in path.read_text().split()


def test_it_is_given_back_at_the_end_and_after_an_error(path: Path) -> None:
    with pytest.raises(RuntimeError), locked(path, "test"):
        raise RuntimeError
    with locked(path, "test"):
        pass
    with locked(path, "test"):
        pass


def test_the_holder_itself_cannot_take_it_twice(path: Path) -> None:
    with locked(path, "test"), pytest.raises(InputError, match=str(os.getpid())), locked(path, "x"):
        pass


def test_waiting_says_so_once_and_ends_with_the_holder(path: Path) -> None:
    child = hold_in_child(path, seconds=0.5)
    told: list[str] = []
    started = time.monotonic()
    with locked(path, "test", wait_s=20, tell=told.append):
        assert 0.1 < time.monotonic() - started < 15
    os.waitpid(child, 0)
    assert len(told) == 1 and f"waiting for process {child} on " in told[0]


def test_waiting_has_an_end(path: Path) -> None:
    child = hold_in_child(path)
    try:
        with pytest.raises(InputError), locked(path, "test", wait_s=0.3, tell=lambda text: None):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_file_system_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(stream: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    wanted = r"launch.lock: can't be locked \(No locks available\)"
    with pytest.raises(InputError, match=wanted), locked(path, "test"):
        pass
