"""What a cluster is made of: words that `up` takes, ports that are free, where files lie."""

from __future__ import annotations

import json
import random
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULT_FOLDER = ROOT / ".slurm-cluster"
FLAVOURS = ("full", "plain")
MAX_SOCKET_CHARS = 107


class ClusterError(Exception):
    """A cluster can't be started or stopped; the message says why and what to do."""


class StartError(ClusterError):
    """A daemon didn't come up."""


@dataclass(frozen=True)
class Settings:
    """What may be asked of a cluster, each as a word name=value."""

    nodes: int = 4
    """How many slurmd, named n1, n2 ..."""
    flavour: str = "full"
    """full: accounting, jobs are requeued. plain: neither, and ended jobs are soon forgotten."""
    cpus_per_node: int = 4
    """What a node claims to have, whatever the machine has."""
    memory_per_node_mb: int = 4096
    """Same for memory; nothing enforces it."""
    grace_s: int = 20
    """Between the signal to a preempted job and its end."""
    max_array_size: int = 1001
    """SLURM's MaxArraySize: array indices are below it."""

    def __post_init__(self) -> None:
        if self.flavour not in FLAVOURS:
            raise ClusterError(f"flavour={self.flavour}: expected one of {', '.join(FLAVOURS)}")
        for name in ("nodes", "cpus_per_node", "memory_per_node_mb", "max_array_size"):
            if getattr(self, name) < 1:
                raise ClusterError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.nodes > 64:
            raise ClusterError(f"nodes={self.nodes}: expected at most 64 on one machine")
        if not 0 <= self.grace_s <= 65533:
            raise ClusterError(f"grace_s={self.grace_s}: expected 0 to 65533")

    @property
    def node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]


def read_words(words: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return {name: value} of words name=value; raise ClusterError for other names."""
    read = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name not in names:
            expected = f"name=value with one of {', '.join(names)}" if names else "no words"
            raise ClusterError(f"{word!r}: expected {expected}")
        read[name] = value
    return read


def changed(settings: Settings, words: dict[str, str]) -> Settings:
    """Return settings with what the words say in place of what they had."""
    values: dict[str, str | int] = {}
    for name, word in words.items():
        if isinstance(getattr(settings, name), str):
            values[name] = word
            continue
        try:
            values[name] = int(word)
        except ValueError:
            raise ClusterError(f"{name}={word}: expected a whole number") from None
    return replace(settings, **values)  # type: ignore[arg-type]


SETTING_NAMES = tuple(field.name for field in fields(Settings))


@dataclass(frozen=True)
class Layout:
    """Where the files of a cluster lie."""

    folder: Path

    @property
    def description(self) -> Path:
        """Written first, so that a folder with it in is known to be ours."""
        return self.folder / "cluster.json"

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def cgroup_conf(self) -> Path:
        return self.folder / "cgroup.conf"

    @property
    def slurmdbd_conf(self) -> Path:
        return self.folder / "slurmdbd.conf"

    @property
    def munge_key(self) -> Path:
        return self.folder / "munge.key"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge.socket"

    @property
    def database(self) -> Path:
        return self.folder / "database"

    @property
    def first_statements(self) -> Path:
        """What the database's server runs at its start."""
        return self.folder / "first.sql"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def state(self) -> Path:
        """What slurmctld remembers."""
        return self.folder / "state"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def check(self) -> None:
        """Raise ClusterError where the folder's path is none that SLURM and the kernel can take."""
        if not re.fullmatch(r"/[A-Za-z0-9._/+-]+", str(self.folder)):
            raise ClusterError(
                f"folder={self.folder}: slurm.conf takes letters, digits and . _ + - only; "
                "give another, such as folder=/tmp/cluster"
            )
        room = MAX_SOCKET_CHARS - len("/munge.socket.lock")
        if len(str(self.folder)) > room:
            raise ClusterError(
                f"folder={self.folder}: longer than {room} characters, too long for a socket; "
                "give a shorter one, such as folder=/tmp/cluster"
            )


@dataclass(frozen=True)
class Description:
    """A cluster as `up` first made it; kept in cluster.json."""

    settings: Settings
    ports: dict[str, int]
    """Of slurmctld, slurmdbd, mariadbd, n1, n2 ..."""
    password: str
    """Of the database."""

    def write(self, path: Path) -> None:
        part = path.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        part.replace(path)


def new_description(settings: Settings) -> Description:
    """Choose ports and a password."""
    names = ["slurmctld", "slurmdbd", "mariadbd", *settings.node_names]
    return Description(settings, free_ports(names), secrets.token_hex(16))


def read_description(path: Path) -> Description | None:
    """Return what `up` wrote, or None where it wrote nothing."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return Description(Settings(**read["settings"]), read["ports"], read["password"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{path}: isn't what `up` writes ({error}); run `down`") from error


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """Choose a port that nobody listens at for each name, below those for outgoing connections.

    Random, so that clusters that are started at once don't choose the same ones.
    """
    ports: dict[str, int] = {}
    candidates = iter(random.SystemRandom().sample(range(10000, 32000), 2000))
    for name in names:
        for port in candidates:
            if _is_free(port):
                ports[name] = port
                break
        else:
            raise ClusterError("no free port between 10000 and 32000")
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
