"""What a kill leaves of a file that is only appended to."""

import pytest

from selftrain.journal import Journal


def test_what_is_written_is_read_in_order(tmp_path):
    journal = Journal(tmp_path / "new folder" / "rows.jsonl")
    assert journal.read() == []
    journal.add({"seed": 0, "label": "für\u2028alle"})  # a line separator inside of a text ends no line
    journal.add({"seed": 1})
    assert Journal(tmp_path / "new folder" / "rows.jsonl").read() == [{"seed": 0, "label": "für\u2028alle"}, {"seed": 1}]


@pytest.mark.parametrize("left", [1, 5, 13])
def test_a_line_that_a_kill_cut_short_costs_no_other_line(tmp_path, left):
    file = tmp_path / "rows.jsonl"
    journal = Journal(file)
    journal.add({"seed": 0})
    whole = len(file.read_bytes())
    journal.add({"label": "ü", "seed": 1})
    file.write_bytes(file.read_bytes()[: whole + left])
    assert Journal(file).read() == [{"seed": 0}]
    Journal(file).add({"seed": 2})
    assert Journal(file).read() == [{"seed": 0}, {"seed": 2}]
