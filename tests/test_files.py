"""All or nothing: a crash at any moment leaves nothing that a reader believes."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist import files
from qa_dist.files import (
    MARKER,
    BrokenFileError,
    canonical_json,
    delete_folder,
    file_sha256,
    own_process,
    read_json,
    read_json_if_there,
    read_marker,
    read_status,
    replaced_file,
    verify_folder,
    write_json,
    write_marker,
    write_status,
    write_text,
)

SOURCE = Path(__file__).parents[1]


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "state.json").write_text('{"step": 4}')
    write_marker(folder, step=4)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- one file


def test_replaced_file_shows_old_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "old")
    with replaced_file(path) as temporary:
        assert temporary.parent == path.parent  # a rename over file systems isn't atomic
        temporary.write_text("half")
        assert path.read_text() == "old"
    assert path.read_text() == "half"
    assert names(path.parent) == ["a.txt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replaced_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("full", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if full == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_order_is_fsync_rename_fsync_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        events.append("fsync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        real_fsync(handle)

    def replace(path: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "a.txt", "x")
    assert events == [
        f"fsync {files.temporary_path(Path('a.txt')).name}",
        "rename",
        f"fsync {tmp_path.name}",
    ]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json_if_there(path) is None
    write_json(path, {"b": 1, "a": ["é", None]})
    assert read_json(path) == read_json_if_there(path) == {"b": 1, "a": ["é", None]}
    assert path.read_text().startswith('{\n  "b": 1')  # a person can read it, in our order
    path.write_text("{half")
    with pytest.raises(json.JSONDecodeError):  # broken isn't absent
        read_json_if_there(path)
    write_status(tmp_path / "status" / "train-0.json", {"step": 3})
    assert read_json(tmp_path / "status" / "train-0.json") == {"step": 3}
    assert names(tmp_path / "status") == ["train-0.json"]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_canonical_json_does_not_depend_on_order(value: dict[str, object]) -> None:
    text = canonical_json(value)
    assert text == canonical_json(dict(reversed(value.items())))
    assert text.isascii() and json.loads(text) == value


# ---- a folder and its marker


def test_a_marked_folder_verifies(marked: Path) -> None:
    marker = verify_folder(marked)
    assert marker["step"] == 4
    assert set(marker["files"]) == {"weights.bin", "state.json"}
    assert marker["files"]["weights.bin"] == {
        "bytes": 10240,
        "sha256": file_sha256(marked / "weights.bin"),
    }
    assert names(marked) == [MARKER, "state.json", "weights.bin"]


def test_temporary_files_and_folders_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".a.1.tmp").write_text("x")
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_text("x")
    assert set(write_marker(tmp_path)["files"]) == {"a"}
    assert set(write_marker(tmp_path)["files"]) == {"a"}  # nor is an earlier marker


def test_an_unmarked_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    for folder in (tmp_path, tmp_path / "none", tmp_path / "weights.bin"):
        assert read_marker(folder) is None
        with pytest.raises(BrokenFileError, match="was never finished") as caught:
            verify_folder(folder)
        assert str(caught.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("text", [b"", b"{half", b"[]", b'{"step": 1}', b'{"files": 3}', b"\xff{}"])
def test_a_broken_marker_is_no_marker(marked: Path, text: bytes) -> None:
    (marked / MARKER).write_bytes(text)
    assert read_marker(marked) is None
    with pytest.raises(BrokenFileError):
        verify_folder(marked)


def test_a_truncated_file_is_named(marked: Path) -> None:
    path = marked / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1])
    for hashes in (True, False):
        with pytest.raises(BrokenFileError) as caught:
            verify_folder(marked, hashes)
        assert str(caught.value) == f"{path}: has 10239 bytes, {MARKER} says 10240"


def test_a_flipped_bit_is_named(marked: Path) -> None:
    path = marked / "weights.bin"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenFileError, match="sha256 differs") as caught:
        verify_folder(marked)
    assert str(caught.value).startswith(f"{path}: ")
    verify_folder(marked, hashes=False)  # what that leaves out


def test_a_missing_file_is_named(marked: Path) -> None:
    (marked / "state.json").unlink()
    with pytest.raises(BrokenFileError, match="is missing") as caught:
        verify_folder(marked)
    assert str(caught.value).startswith(f"{marked / 'state.json'}: ")


def test_a_later_file_does_not_break_a_folder(marked: Path) -> None:
    (marked / "notes.txt").write_text("by hand")
    verify_folder(marked)


def test_a_file_of_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 100)
    whole = file_sha256(path)
    monkeypatch.setattr(files, "_CHUNK_BYTES", 7)
    assert file_sha256(path) == whole


# ---- deleting


def test_delete_removes_the_marker_first(marked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        assert not (marked / MARKER).exists() and (marked / "weights.bin").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        delete_folder(marked)
    assert read_marker(marked) is None  # whole files are left, but no one believes them
    monkeypatch.undo()
    delete_folder(marked)
    assert not marked.exists()
    delete_folder(marked)  # and again is fine


def test_delete_follows_no_links(marked: Path) -> None:
    outside = marked.parent / "precious"
    outside.mkdir()
    (outside / "data").write_text("x")
    write_marker(outside)
    (marked / "link").symlink_to(outside)
    delete_folder(marked)
    assert not marked.exists()
    link = marked.parent / "step-00000005"
    link.symlink_to(outside)
    delete_folder(link)
    assert not link.is_symlink()
    verify_folder(outside)


# ---- killed for real


def test_killed_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    """A child is killed inside each system call of a save in turn, as kill -9 would."""
    code = """
import os, sys
from pathlib import Path
from qa_dist import files
folder, fatal = Path(sys.argv[1]), int(sys.argv[2])
calls = 0
def dying(real):
    def call(*args):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), 9)
        return real(*args)
    return call
os.fsync, Path.replace = dying(os.fsync), dying(Path.replace)
files.write_text(folder / "weights.bin", "new" * 1000)
files.write_text(folder / "state.json", "new")
files.write_marker(folder, step=1)
print("done", calls)
"""
    outcomes = []
    for fatal in range(1, 11):
        folder = tmp_path / str(fatal)
        child = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(fatal)],
            cwd=SOURCE,
            capture_output=True,
            text=True,
            check=False,
        )
        marker = read_marker(folder)
        outcomes.append((child.returncode, marker is not None))
        if marker is not None:
            verify_folder(folder)
            assert set(marker["files"]) == {"weights.bin", "state.json"}
    # three writes of three calls: the marker is there only from the last rename on
    assert outcomes == [*[(-9, False)] * 8, (-9, True), (0, True)]


def test_a_heartbeat_can_say_whose_it_is() -> None:
    assert own_process() == {"host": socket.gethostname(), "pid": os.getpid()}


def test_a_setting_is_read_without_a_yaml_reader(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: tiny\ntrain:\n  batch_windows: 8\n  a_batch_windows: 9\n")
    assert files.read_setting(path, "batch_windows") == "8"
    assert files.read_setting(path, "other") == ""
    assert files.read_setting(tmp_path / "none.yaml", "name") == ""


def test_t23_a_heartbeat_that_finds_no_room_leaves_the_one_before_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train-0.json"
    write_status(path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_status(path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_status(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
