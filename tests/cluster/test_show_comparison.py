"""Tables on a terminal: everything stands there, brackets are no markup."""

from __future__ import annotations

import pytest

from qa_dist.cluster.show_comparison import show_tables
from qa_dist.evaluation.comparison_table import TextTable


def test_tables_notes_and_what_was_left_out_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [["coqa_bert/main", "61.2 [60.0, 62.5]"], ["coqa_x/[bold]", "-"]]
    table = TextTable("results", ["", "EM"], rows, "[..]: 95 %")
    show_tables([table], ["coqa_electra: no run has scores yet"])
    printed = capsys.readouterr().out
    for text in ("results", "61.2 [60.0, 62.5]", "coqa_x/[bold]", "[..]: 95 %"):
        assert text in printed
    assert "left out: coqa_electra: no run has scores yet" in printed
