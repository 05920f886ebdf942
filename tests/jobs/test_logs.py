"""jobs/logs.py from the outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import fabricate

from jobs import logs


def test_the_words_and_their_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = fabricate(tmp_path, where="local")
    runs_dir = f"runs_dir={tmp_path}/runs"
    assert logs.main(["tiny/one", runs_dir]) == 2
    assert "prepare 0: it has written no logs yet; it is missing" in capsys.readouterr().err
    fake.log("prepare-0-1-0.err", "hello\n")
    for words in ([], ["prepare"], ["prepare", "0"], ["prepare", "0", "--follow"]):
        assert logs.main(["tiny/one", runs_dir, *words]) == 0
        assert "hello\n" in capsys.readouterr().out
    assert logs.main(["tiny/one", "nonsense", runs_dir]) == 2
    assert logs.main([runs_dir]) == 2 and "which run?" in capsys.readouterr().err
    assert logs.main([]) == 0 and "--follow" in capsys.readouterr().out
