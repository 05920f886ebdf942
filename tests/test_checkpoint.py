"""Checkpoints: what is saved comes back, damage is seen, others' refused, pruning careful."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist import checkpoint, faults, files
from qa_dist.checkpoint import (
    SaveError,
    find_checkpoint,
    list_steps,
    load_checkpoint,
    load_model_state,
    prune_checkpoints,
    reading,
    save_checkpoint,
    weights_sha256,
)
from qa_dist.files import BrokenFileError
from qa_dist.records import InputError
from qa_dist.run_dir import step_name

IDENTITY = {"run_id": "run-a", "recipe_sha256": "aaaa"}


@pytest.fixture(autouse=True)
def disarm() -> Iterator[None]:
    yield
    faults.arm("")


def states(step: int) -> dict[str, Any]:
    return {
        "model_state": {"weight": torch.full((2, 3), float(step)), "bias": torch.arange(3)},
        "optimizer_state": {"weight.exp_avg": torch.full((2, 3), step / 2)},
        "train_state": {"step": step, "best": {"step": 1, "F1": 0.5}},
    }


def save(folder: Path, step: int, attempt: int = 0, **more: Any) -> Path:
    identity = more.pop("identity", IDENTITY)
    return save_checkpoint(
        folder, step, **{**states(step), **more}, identity=identity, attempt=attempt
    )


def find(folder: Path, is_expected: bool = True, **more: Any) -> tuple[Path | None, list[str]]:
    warnings: list[str] = []
    options = {"identity": IDENTITY, "wait_s": 0.0, **more}
    path = find_checkpoint(folder, warn=warnings.append, is_expected=is_expected, **options)
    return path, warnings


def all_bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


# ---- Saving and loading ----


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    state = {
        "half": torch.randn(3, 2).to(torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "wanted_grad": torch.ones(2, requires_grad=True),
    }
    path = save(tmp_path, 5, model_state=state, extra_files={"config.json": "{}"})
    assert path == tmp_path / "step-00000005"
    expected = ["MANIFEST.json", "config.json", "model.safetensors", "optimizer.safetensors"]
    assert sorted(all_bytes(path)) == [*expected, "train_state.json"]
    loaded = load_checkpoint(path)
    assert loaded.step == 5 and loaded.train_state == states(5)["train_state"]
    assert loaded.optimizer_state.keys() == {"weight.exp_avg"}
    for name, tensor in state.items():
        assert loaded.model_state[name].dtype == tensor.dtype
        assert torch.equal(loaded.model_state[name], tensor)
    assert load_model_state(path).keys() == state.keys()


def test_tied_tensors_and_views_of_one_buffer(tmp_path: Path) -> None:
    buffer = torch.arange(8.0)
    tied = torch.ones(2, 2)
    state = {"a": tied, "b": tied, "c": buffer[:4], "d": buffer[4:], "e": buffer[2:6].view(2, 2)}
    loaded = load_checkpoint(save(tmp_path, 1, model_state=state)).model_state
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_same_state_same_bytes(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, 3) for name in ("x", "y")]
    backwards = dict(reversed(states(3)["model_state"].items()))
    paths.append(save(tmp_path / "z", 3, model_state=backwards))
    assert all_bytes(paths[0]) == all_bytes(paths[1]) == all_bytes(paths[2])
    assert weights_sha256(paths[0]) != weights_sha256(save(tmp_path / "x", 4)), "control"


def test_loaded_tensors_outlive_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    loaded = load_checkpoint(path)
    (path / checkpoint.MODEL).write_bytes(b"\0" * 1000)
    assert torch.equal(loaded.model_state["weight"], states(3)["model_state"]["weight"])


def test_saved_twice_is_a_no_op_and_broken_is_written_again(tmp_path: Path) -> None:
    path = save(tmp_path, 4)
    before = (path / checkpoint.MODEL).stat().st_ino
    assert save(tmp_path, 4, attempt=1) == path
    assert (path / checkpoint.MODEL).stat().st_ino == before
    flip(path / checkpoint.OPTIMIZER)
    save(tmp_path, 4, attempt=1)
    assert load_checkpoint(path).step == 4
    assert files.read_json(path / files.MARKER)["attempt"] == 1


def test_nothing_is_readable_by_others(tmp_path: Path) -> None:
    assert save(tmp_path / "checkpoints", 1).stat().st_mode & 0o077 == 0


def test_a_fenced_attempt_publishes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for allowed in (0, 1):  # before the rename, before the marker
        answers = iter([None] * allowed)

        def check_fence(answers: Iterator[None] = answers) -> None:
            if next(answers, "fenced") == "fenced":
                raise RuntimeError("attempt 1 has taken over")

        with pytest.raises(RuntimeError, match="taken over"):
            save(tmp_path, 2, check_fence=check_fence)
        assert list_steps(tmp_path) == [1]
    assert save(tmp_path, 2, attempt=1) == find(tmp_path)[0]


def test_no_pickle_in_the_module() -> None:
    text = Path(checkpoint.__file__).read_text()
    assert "torch.load" not in text and "import pickle" not in text


# ---- Damage (T6) ----


def flip(path: Path, where: float = 0.9) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    """The right content, but from outside."""
    outside = path.parents[1] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


NAMES = (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.TRAIN_STATE, files.MARKER)


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in NAMES for damage in (flip, truncate, empty, Path.unlink)]
    + [(checkpoint.MODEL, link)],
)
def test_t06_damaged_falls_back_and_names_the_file(name: str, damage: Any, tmp_path: Path) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    assert find(tmp_path) == (newer, []), "control: whole before the damage"
    damage(newer / name)
    path, [warning] = find(tmp_path)
    assert path == older
    assert str(newer) in warning and name in warning
    with pytest.raises(BrokenFileError, match=name):
        load_checkpoint(newer)
    shutil.rmtree(older)
    with pytest.raises(
        InputError, match=r"refuses to start again from step 0.*fresh=true"
    ) as error:
        find(tmp_path)
    assert str(newer) in str(error.value)


@pytest.mark.parametrize("seed", range(40))
def test_t06_any_flipped_bit_of_the_marker_is_harmless_or_seen(seed: int, tmp_path: Path) -> None:
    """Never a crash, never "another run's", never another step."""
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    flip(newer / files.MARKER, (seed + 0.5) / 40)
    path, _ = find(tmp_path)
    assert path in (older, newer)
    prune_checkpoints(tmp_path, 1, None, attempt=0)
    assert find(tmp_path)[0] == path


def test_t06_control_without_hashes_a_flipped_weight_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    flip(path / checkpoint.MODEL)
    wrong = load_checkpoint(path, hashes=False).model_state["weight"]
    right = states(2)["model_state"]["weight"]
    assert not torch.equal(wrong, right) or wrong.shape != right.shape
    with pytest.raises(BrokenFileError, match="sha256"):
        load_model_state(path)


# ---- Finding ----


def test_a_new_run_has_none(tmp_path: Path) -> None:
    assert find(tmp_path / "checkpoints", is_expected=False) == (None, [])
    assert find(tmp_path, is_expected=False) == (None, [])


def test_s18_history_but_no_checkpoint_refuses(tmp_path: Path) -> None:
    shutil.rmtree(save(tmp_path, 1))
    assert find(tmp_path, is_expected=False) == (None, []), "control: nothing on disk tells"
    with pytest.raises(InputError, match="refuses to start again from step 0"):
        find(tmp_path)


def test_s18_several_broken_are_listed_with_their_reasons(tmp_path: Path) -> None:
    flip(save(tmp_path, 1) / checkpoint.MODEL)
    truncate(save(tmp_path, 2) / checkpoint.OPTIMIZER)
    with pytest.raises(InputError) as error:
        find(tmp_path, is_expected=False)
    assert "step-00000001/model.safetensors: its sha256 differs" in str(error.value)
    assert "step-00000002/optimizer.safetensors: has" in str(error.value)


def test_s17_a_folder_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    folder, away = tmp_path / "checkpoints", tmp_path / "away"
    path = save(folder, 1)
    folder.rename(away)

    def bring_back() -> None:
        time.sleep(0.3)
        away.rename(folder)

    thread = threading.Thread(target=bring_back)
    thread.start()
    assert find(folder, wait_s=20.0) == (path, [])
    thread.join()


def test_s17_errors_of_the_file_system_are_retried_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, 1)
    failures = [OSError(errno.ESTALE, "Stale file handle")] * 2
    verify = files.verify_folder

    def verify_later(*arguments: Any) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return verify(*arguments)

    monkeypatch.setattr(checkpoint, "_RETRY_S", 0.01)
    monkeypatch.setattr(files, "verify_folder", verify_later)
    assert find(tmp_path, is_expected=False, wait_s=5.0) == (path, [])
    assert not failures
    failures += [OSError(errno.ESTALE, "Stale file handle")] * 1000
    with pytest.raises(InputError, match="Stale file handle"):
        find(tmp_path, is_expected=False, wait_s=0.05)


def test_t07_another_runs_checkpoint_is_refused_with_both_hashes(tmp_path: Path) -> None:
    save(tmp_path / "a", 1)
    other = save(tmp_path / "b", 2, identity={"run_id": "run-b", "recipe_sha256": "bbbb"})
    shutil.copytree(other, tmp_path / "a" / other.name)
    with pytest.raises(InputError) as error:
        find(tmp_path / "a")
    assert "recipe_sha256: bbbb there, aaaa here" in str(error.value)
    assert "run_id: run-b there, run-a here" in str(error.value)
    with pytest.raises(InputError, match="belongs to another run"):
        save(tmp_path / "a", 2)


def test_a_renamed_checkpoint_is_broken(tmp_path: Path) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    newer.rename(tmp_path / "step-00000009")
    path, [warning] = find(tmp_path)
    assert path == older and "is that of step 2" in warning


def test_s11_mtime_does_not_matter(tmp_path: Path) -> None:
    for step in (3, 200, 1000):
        path = save(tmp_path, step)
        for file in (*path.iterdir(), path):
            os.utime(file, (2_000_000_000 - step * 1000,) * 2)
    newest_by_time = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    assert newest_by_time.name == "step-00000003", "control: time would choose the oldest"
    assert find(tmp_path)[0] == tmp_path / "step-00001000"
    assert prune_checkpoints(tmp_path, 1, None, attempt=0) == [3, 200]


def test_steps_of_more_than_eight_digits_are_ordered_by_number(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step)
    (tmp_path / "step-000000005").mkdir()  # no name of ours: nine digits, padded
    assert list_steps(tmp_path) == [99_999_999, 100_000_000]
    assert find(tmp_path)[0] == tmp_path / "step-100000000"


def test_x06_a_linked_checkpoint_is_not_followed(tmp_path: Path) -> None:
    outside = save(tmp_path / "outside", 9)
    folder = tmp_path / "checkpoints"
    older = save(folder, 1)
    (folder / outside.name).symlink_to(outside)
    path, [warning] = find(folder)
    assert path == older and "symbolic link" in warning
    save(folder, 9)
    assert not (folder / outside.name).is_symlink() and load_checkpoint(outside).step == 9


# ---- Pruning ----


def test_keeps_the_newest_the_best_and_the_protected(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step)
    assert prune_checkpoints(tmp_path, 2, 3, protected={5}, attempt=0) == [1, 2, 4]
    assert list_steps(tmp_path) == [3, 5, 6, 7]
    with pytest.raises(ValueError, match="keep_last=0"):
        prune_checkpoints(tmp_path, 0, None, attempt=0)


def test_a_broken_newest_keeps_the_last_good_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    flip(tmp_path / "step-00000003" / checkpoint.MODEL)
    assert prune_checkpoints(tmp_path, 1, None, attempt=0) == [1]
    assert find(tmp_path)[0] == tmp_path / "step-00000002"
    flip(tmp_path / "step-00000002" / checkpoint.MODEL)
    assert prune_checkpoints(tmp_path, 1, None, attempt=0) == []
    assert prune_checkpoints(tmp_path / "nowhere", 1, None, attempt=0) == []


def test_verified_step_saves_the_hashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    hashed: list[Path] = []
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or "")
    assert prune_checkpoints(tmp_path, 1, None, attempt=0, verified_step=2) == [1]
    assert not hashed


def test_e04_what_somebody_reads_is_deleted_only_afterwards(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    with reading(tmp_path / step_name(1)), reading(tmp_path / step_name(1)):
        assert prune_checkpoints(tmp_path, 1, None, attempt=0) == [2]
        assert load_model_state(tmp_path / step_name(1))
    assert prune_checkpoints(tmp_path, 1, None, attempt=0) == [1]
    lease = reading(tmp_path / step_name(1))
    with pytest.raises(BrokenFileError, match="it was deleted, or never finished"), lease:
        pass


def test_removes_remains_but_nothing_of_a_newer_attempt(tmp_path: Path) -> None:
    for step in (1, 3):
        save(tmp_path, step)
    remains = {"step-00000002", ".step-00000003.0.tmp", ".step-00000004.1.tmp"}
    others = {"step-00000004", ".step-00000004.2.tmp", "step-2", "notes", ".step-x.0.tmp"}
    for name in remains | others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    assert prune_checkpoints(tmp_path, 1, 1, attempt=1) == [2]
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000001", "step-00000003", *others}


def test_x06_deletion_follows_no_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = tmp_path / "checkpoints"
    save(folder, 5)
    (folder / "step-00000001").symlink_to(outside)
    (folder / ".step-00000002.0.tmp").symlink_to(outside)
    (save(folder, 3) / "inside").symlink_to(outside)
    assert prune_checkpoints(folder, 1, None, attempt=0) == [1, 3]
    assert [path.name for path in folder.iterdir()] == ["step-00000005"]
    assert (outside / "precious").read_text() == "x"


@settings(max_examples=25, deadline=None)
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["save", "broken save", "prune", "flip"]), st.integers(1, 3)),
        max_size=12,
    )
)
def test_prune_never_loses_the_newest_whole_one(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    step = 0
    for action, number in actions:
        if action == "save":
            step += number
            save(folder, step)
        elif action == "broken save":
            (folder / f"step-{step + 1:08d}").mkdir(exist_ok=True)
        elif action == "flip" and (there := list_steps(folder)):
            flip(folder / f"step-{there[-1]:08d}" / checkpoint.MODEL)
        elif action == "prune":
            before = [
                step for step in list_steps(folder) if checkpoint._is_whole(_at(folder, step))
            ]
            prune_checkpoints(folder, number, None, attempt=0)
            after = [step for step in list_steps(folder) if checkpoint._is_whole(_at(folder, step))]
            assert after[-1:] == before[-1:]
            assert len(after) >= min(1, len(before))


def _at(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


# ---- A full disk (T23) ----


@pytest.mark.parametrize(
    "point", ["before_files", "mid_file", "after_files", "after_rename", "after_marker"]
)
def test_t23_no_space_leaves_nothing_behind(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    older = save(folder, 1)
    monkeypatch.setenv(faults.LOG_VARIABLE, str(tmp_path / "log"))
    faults.arm(f"point=checkpoint.{point};step=2;action=enospc")
    with pytest.raises(
        SaveError, match=r"No space left.*needs 72 bytes, [\d,]+ bytes are"
    ) as error:
        save(folder, 2)
    assert error.value.errno == errno.ENOSPC
    assert "step-00000002" in str(error.value)
    assert [fired["point"] for fired in faults.read_log(tmp_path / "log")] == [
        f"checkpoint.{point}"
    ]
    if point == "after_marker":
        assert list_steps(folder) == [1, 2]
    else:
        assert list(folder.iterdir()) == [older]
        assert find(folder) == (older, [])
    newer = save(folder, 2)
    assert find(folder) == (newer, []), "it goes on once there is room"
