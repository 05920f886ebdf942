"""Where a run's windows lie, and that none are used before all are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa_dist.data.prepared import Prepared, read_prepared, read_template
from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import ARRAYS
from qa_dist.files import MARKER, write_json
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir
from qa_dist.text.windows import PairTemplate

TEMPLATE = PairTemplate((101,), (102,), (102,), (0, 0, 0, 1, 1), 0, 102, 0)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Eight train shards and one dev shard, all there."""
    made = Prepared(tmp_path, "abc", {"train": 8, "dev": 1})
    for split in made.num_shards:
        for folder in made.shards(split):
            ShardWriter(folder, 600).finish(template=TEMPLATE.to_json())
    return made


def test_shards_are_named_in_order(prepared: Prepared) -> None:
    names = [path.name for path in prepared.shards("train")]
    assert names == [f"train-{i:05d}-of-00008" for i in range(8)]
    assert prepared.missing("train") == []
    assert [shard.folder.name for shard in prepared.open("train").shards] == names


def test_p9_missing_shards_are_refused_by_name(prepared: Prepared) -> None:
    (prepared.shards("train")[3] / MARKER).unlink()
    (prepared.shards("train")[5] / ARRAYS).unlink()
    assert [path.name[:11] for path in prepared.missing("train")] == ["train-00003", "train-00005"]
    with pytest.raises(InputError) as caught:
        prepared.open("train")
    message = str(caught.value)
    assert message.startswith(f"{prepared.folder}: 2 of 8 shards aren't prepared: train-00003-of-")
    assert "train-00005-of-00008" in message and "Launch the run again" in message
    prepared.open("dev")


def test_p9_many_missing_shards_are_counted(prepared: Prepared) -> None:
    for path in prepared.shards("train"):
        (path / MARKER).unlink()
    with pytest.raises(InputError, match=r"8 of 8 .*train-00004-of-00008 and 3 more\. Launch"):
        prepared.open("train")


def test_a_shard_of_another_kind_is_refused(prepared: Prepared) -> None:
    folder = prepared.shards("dev")[0]
    write_json(folder / MARKER, {"files": {}})
    with pytest.raises(InputError, match="dev-00000-of-00001: isn't a finished shard"):
        prepared.open("dev")


def test_run_json_keeps_it(prepared: Prepared, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write_json(run.run_json, {"id": "x", "prepared": prepared.to_json()})
    assert read_prepared(run) == prepared


def test_the_template_comes_from_the_markers(prepared: Prepared) -> None:
    assert read_template(prepared.open("dev")) == TEMPLATE
