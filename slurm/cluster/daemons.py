"""The daemons of a cluster: their command lines, starting one, waiting until it answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from members import DAEMON_VARIABLE, FOLDER_VARIABLE, members
from settings import ClusterError, Description, Layout

SYSTEM_TABLES = (
    Path("/usr/share/mysql/mysql_system_tables.sql"),
    Path("/usr/share/mysql/mariadb_system_tables.sql"),
    Path("/usr/share/mariadb/mariadb_system_tables.sql"),
)
"""Where the packages of one release or another have it."""
SMALL_DATABASE = (
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--skip-innodb-doublewrite",
    "--skip-sync-frm",
    "--debug-no-sync",
)
"""Nothing in it is worth an fsync."""
TAIL_LINES = 15


def environ(layout: Layout) -> dict[str, str]:
    """Return this process' environment, pointed at the cluster and at nothing else of SLURM's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH_", "SRUN_"))}
    return {**kept, "SLURM_CONF": str(layout.slurm_conf), "GLOO_SOCKET_IFNAME": "lo"}


def tail(path: Path) -> str:
    """Return the last lines of a log."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


class Daemons:
    """Starts those daemons of a cluster that don't run, and waits for them."""

    def __init__(self, description: Description, layout: Layout, give_up_at: float) -> None:
        self._ports = description.ports
        self._layout = layout
        self._give_up_at = give_up_at
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._running = {member.name for member in members(layout) if member.kind == "daemon"}

    @property
    def started(self) -> list[str]:
        """The names of those that had to be started."""
        return list(self._started)

    def start(self, name: str) -> None:
        """Start a daemon unless it runs."""
        if name in self._running:
            return
        if name == "mariadbd":
            self._create_database()
        with (self._layout.logs / f"{name}.out").open("ab") as log:
            self._started[name] = subprocess.Popen(
                self._command(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._layout.folder,
                start_new_session=True,
                env=self._environ(name),
            )

    def wait_for(self, what: str, name: str, is_true: Callable[[], bool]) -> None:
        """Wait until something holds that daemon `name` brings about."""
        while not is_true():
            self._check_alive()
            if time.monotonic() > self._give_up_at:
                raise ClusterError(f"waited in vain: {what}\n{self._log_of(name)}")
            time.sleep(0.05)

    def wait_for_port(self, name: str) -> None:
        """Wait until a daemon takes connections."""
        port = self._ports[name]
        self.wait_for(f"{name} should listen at port {port}", name, lambda: _listens(port))

    def _check_alive(self) -> None:
        for name, process in self._started.items():
            if process.poll() is not None:
                raise ClusterError(
                    f"{name} ended with status {process.returncode}\n{self._log_of(name)}"
                )

    def _log_of(self, name: str) -> str:
        path = self._layout.logs / f"{name}.out"
        return f"the last lines of {path}:\n{tail(path)}"

    def _environ(self, name: str) -> dict[str, str]:
        marks = {FOLDER_VARIABLE: str(self._layout.folder), DAEMON_VARIABLE: name}
        path = f"/usr/sbin:/sbin:{os.environ.get('PATH', '/usr/bin:/bin')}"
        return {**environ(self._layout), **marks, "PATH": path}

    def _command(self, name: str) -> list[str]:
        layout = self._layout
        if name == "munged":
            return [
                "munged",
                "--foreground",
                # Its socket is for us alone, in a folder of mode 0700; that's an error to munged.
                "--force",
                "--num-threads=2",
                f"--key-file={layout.munge_key}",
                f"--socket={layout.munge_socket}",
                f"--pid-file={layout.folder}/munged.pid",
                f"--seed-file={layout.folder}/munged.seed",
                f"--log-file={layout.logs}/munged.log",
            ]
        if name == "mariadbd":
            return [
                *self._mariadbd(layout.database),
                f"--port={self._ports['mariadbd']}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                f"--socket={layout.folder}/mariadbd.socket",
                f"--init-file={layout.first_statements}",
            ]
        if name in ("slurmctld", "slurmdbd"):
            return [name, "-D"]
        return ["slurmd", "-D", "-N", name]

    def _mariadbd(self, database: Path) -> list[str]:
        # Where it is started by root it insists on being told so.
        root = ["--user=root"] if os.getuid() == 0 else []
        files = [f"--datadir={database}", f"--pid-file={self._layout.folder}/mariadbd.pid"]
        return ["mariadbd", "--no-defaults", *root, *files, *SMALL_DATABASE]

    def _create_database(self) -> None:
        """Make the tables that a server of MariaDB needs, and nothing else that its own script
        would."""
        if self._layout.database.is_dir():
            return
        tables = next((path for path in SYSTEM_TABLES if path.is_file()), None)
        if tables is None:
            raise ClusterError(f"no {SYSTEM_TABLES[0]}: install mariadb-server-core again")
        part = self._layout.database.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        with (self._layout.logs / "mariadbd.out").open("ab") as log:
            ended = subprocess.run(
                [*self._mariadbd(part), "--bootstrap"],
                input=b"create database mysql;\nuse mysql;\n" + tables.read_bytes(),
                stdout=log,
                stderr=log,
                env=self._environ("mariadbd"),
            )
        if ended.returncode:
            raise ClusterError(f"the database can't be made\n{self._log_of('mariadbd')}")
        part.rename(self._layout.database)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
