"""Start and stop a SLURM cluster of several nodes on this machine, in a folder of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from configuration import CGROUP_CONF, first_statements, slurm_conf, slurmdbd_conf
from daemons import Daemons, environ
from install import install
from members import Member, kill_until_none, members
from settings import (
    DEFAULT_FOLDER,
    SETTING_NAMES,
    ClusterError,
    Description,
    Layout,
    Settings,
    StartError,
    changed,
    new_description,
    read_description,
    read_words,
)

START_TIMEOUT_S = 120.0


def up(folder: Path, words: dict[str, str] | None = None) -> str:
    """Start whatever of the cluster in this folder doesn't run, and wait until it is ready.

    Returns what there is to tell.
    """
    began_at = time.monotonic()
    layout = Layout(folder)
    layout.check()
    changed(Settings(), words or {})
    with _held(layout):
        description = _describe(layout, words or {})
        daemons = Daemons(description, layout, began_at + START_TIMEOUT_S)
        try:
            _start(daemons, description, layout)
        except ClusterError as error:
            raise StartError(
                f"{error}\nAll logs are in {layout.logs}. `slurm/cluster/down folder={folder}` "
                "clears up; then start it again, which chooses other ports."
            ) from error
    seconds = time.monotonic() - began_at
    what = f"{folder}: {description.settings.nodes} nodes, {description.settings.flavour} flavour,"
    return f"{what} " + (f"ready in {seconds:.1f} s" if daemons.started else "up already")


def down(folder: Path, keep_logs: bool = False) -> None:
    """Kill every process of the cluster in this folder, then remove its files, whatever became of
    it."""
    layout = Layout(folder)
    if not folder.exists():
        _check_dead(kill_until_none(lambda: members(layout)))
        return
    with _held(layout):
        _check_ours(layout)
        _check_dead(kill_until_none(lambda: members(layout)))
        for path in folder.iterdir():
            if keep_logs and path == layout.logs:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if not keep_logs:
            folder.rmdir()


def kill(folder: Path, name: str, tasks_live_on: bool = False) -> None:
    """Kill one daemon; a node's with its steps and their tasks, as when the machine is lost.

    With tasks_live_on only the daemon, as when a node loses the network.
    """
    layout = Layout(folder)
    kinds = ("daemon", "helper") if tasks_live_on else ("daemon", "helper", "step", "task")

    def victims() -> list[Member]:
        return [one for one in members(layout) if one.name == name and one.kind in kinds]

    if not victims():
        running = sorted({one.name for one in members(layout) if one.kind == "daemon"})
        raise ClusterError(f"name={name}: expected one of {', '.join(running) or '(none runs)'}")
    _check_dead(kill_until_none(victims))


def _check_dead(left: list[Member]) -> None:
    if left:
        pids = ", ".join(str(member.pid) for member in left)
        raise ClusterError(f"processes {pids} can't be killed; the files are left as they are")


@contextmanager
def _held(layout: Layout) -> Iterator[None]:
    """Make the folder and keep other `up` and `down` from it; the kernel gives back a lock."""
    while True:
        layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(layout.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_same(handle, layout.folder):
                yield
                return
        finally:
            os.close(handle)


def _is_same(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _check_ours(layout: Layout) -> None:
    names = {path.name for path in layout.folder.iterdir()}
    if names - {layout.logs.name} and not names & {"cluster.json", "cluster.part"}:
        raise ClusterError(
            f"{layout.folder}: holds files but no cluster.json, so it isn't a cluster's; "
            "give another folder=..."
        )


def _describe(layout: Layout, words: dict[str, str]) -> Description:
    """Return the cluster that is there already, or write the files of a new one."""
    _check_ours(layout)
    layout.folder.chmod(0o700)
    description = read_description(layout.description)
    if description is None:
        description = new_description(changed(Settings(), words))
        description.write(layout.description)
    elif changed(description.settings, words) != description.settings:
        raise ClusterError(
            f"{layout.folder}: is a cluster with {_spelled(description.settings)}; "
            "run `down` first, or give another folder=..."
        )
    spools = [layout.spool / name for name in description.settings.node_names]
    for folder in (layout.logs, layout.state, layout.spool, *spools):
        folder.mkdir(exist_ok=True)
    _write(layout.slurm_conf, slurm_conf(description, layout))
    _write(layout.cgroup_conf, CGROUP_CONF)
    _write(layout.slurmdbd_conf, slurmdbd_conf(description, layout))
    _write(layout.first_statements, first_statements(description))
    if not layout.munge_key.exists():
        _write(layout.munge_key, os.urandom(64).hex())
    return description


def _spelled(settings: Settings) -> str:
    return " ".join(f"{name}={getattr(settings, name)}" for name in SETTING_NAMES)


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.touch(mode=0o600)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _start(daemons: Daemons, description: Description, layout: Layout) -> None:
    daemons.start("munged")
    daemons.wait_for("munged should make its socket", "munged", layout.munge_socket.is_socket)
    for name in description.settings.node_names:
        daemons.start(name)
    if description.settings.flavour == "full":
        for name in ("mariadbd", "slurmdbd"):
            daemons.start(name)
            daemons.wait_for_port(name)
    daemons.start("slurmctld")
    for name in ("slurmctld", *description.settings.node_names):
        daemons.wait_for_port(name)
    daemons.wait_for("all nodes should be up", "slurmctld", lambda: _nodes_are_up(layout))


def _nodes_are_up(layout: Layout) -> bool:
    words = ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%t"]
    ended = subprocess.run(words, capture_output=True, text=True, env=environ(layout))
    states = set(ended.stdout.split())
    return ended.returncode == 0 and states <= {"idle", "mix", "alloc", "comp"} and bool(states)


WORDS: dict[str, Sequence[str]] = {
    "install": (),
    "up": ("folder", *SETTING_NAMES),
    "down": ("folder", "keep_logs"),
    "kill": ("folder", "name", "tasks_live_on"),
}


def main(verb: str, words: Sequence[str]) -> int:
    """Run install, up, down or kill with words name=value; return the exit status.

    2: refused before anything was done; 1: begun, and failed.
    """
    try:
        given = read_words(words, WORDS[verb])
        folder = Path(given.pop("folder", str(DEFAULT_FOLDER))).resolve()
        if verb in ("install", "up"):
            install()
        if verb == "up":
            print(up(folder, given))
        elif verb == "down":
            down(folder, _yes_or_no(given, "keep_logs"))
            print(f"{folder}: down")
        elif verb == "kill":
            kill(folder, given.get("name", ""), _yes_or_no(given, "tasks_live_on"))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, StartError) else 2
    except KeyboardInterrupt:
        print("error: interrupted; `slurm/cluster/down` with the same folder=... clears up")
        return 130
    return 0


def _yes_or_no(given: dict[str, str], name: str) -> bool:
    word = given.get(name, "false")
    if word not in ("true", "false"):
        raise ClusterError(f"{name}={word}: expected true or false")
    return word == "true"
