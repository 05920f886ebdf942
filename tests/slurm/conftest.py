"""Real clusters for tests: `cluster` for most, `plain_cluster` without accounting; started when
first asked for, stopped at the end whatever happened."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cases import SlurmCase
from slurm_clusters import PREFIX, Cluster, running, tool

from qa_dist.run_dir import RunDir


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> None:
    """Stop the clusters of earlier tests that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            tool("down", f"folder={folder}")


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    with running("nodes=4", "max_array_size=8") as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Four nodes with accounting, MaxArraySize 8; empty and all up when a test begins."""
    shared_cluster.up()
    yield shared_cluster
    shared_cluster.cancel_all()


@pytest.fixture(scope="session")
def shared_plain_cluster() -> Iterator[Cluster]:
    with running("nodes=2", "flavour=plain", "max_array_size=8") as cluster:
        yield cluster


@pytest.fixture
def plain_cluster(shared_plain_cluster: Cluster) -> Iterator[Cluster]:
    """Two nodes, no accounting, JobRequeue=0, MinJobAge=2."""
    shared_plain_cluster.up()
    yield shared_plain_cluster
    shared_plain_cluster.cancel_all()


@pytest.fixture
def case(cluster: Cluster, launch_words: list[str], tmp_path: Path) -> SlurmCase:
    return SlurmCase(cluster, launch_words, tmp_path)


@pytest.fixture(scope="session")
def undisturbed(
    shared_cluster: Cluster, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """A run on two nodes that nothing interrupted. For reading only."""
    case = SlurmCase(shared_cluster, launch_words, tmp_path_factory.mktemp("undisturbed"))
    case.goes_on_to_the_end()
    return case.run
