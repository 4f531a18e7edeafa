"""What a kill leaves of a file that is only appended to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.files.journal import Journal


def test_what_is_written_is_read_in_order(tmp_path):
    journal = Journal(tmp_path / "new" / "folder" / "rows.jsonl")
    assert journal.read() == []
    journal.add({"seed": 0, "label": "für\u2028alle"})  # a line separator inside of a text ends no line
    journal.add({"seed": 1})
    assert Journal(tmp_path / "new" / "folder" / "rows.jsonl").read() == [{"seed": 0, "label": "für\u2028alle"}, {"seed": 1}]


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


def test_a_line_is_plain_json_and_readable(tmp_path):
    Journal(tmp_path / "rows.jsonl").add({"label": "für alle", "seed": 1})
    Journal(tmp_path / "rows.jsonl").add({"seed": 2})
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == '{"label": "für alle", "seed": 1}\n{"seed": 2}\n'


values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])), st.lists, max_leaves=4)
entries = st.lists(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), values, max_size=3), max_size=4)


@given(entries, entries, st.integers(0, 60))
def test_what_is_written_comes_back_wherever_a_kill_cut_the_last_line(tmp_path_factory, before, after, left):
    file = tmp_path_factory.mktemp("journal") / "rows.jsonl"
    journal = Journal(file)
    for entry in before:
        journal.add(entry)
    whole = file.read_bytes() if before else b""
    journal.add({"cut": "ü" * 20})
    line = file.read_bytes()[len(whole) :]
    file.write_bytes(whole + line[: min(left, len(line) - 2)])  # the whole line but its end is read: nothing is lost
    for entry in after:
        journal.add(entry)
    assert journal.read() == before + after
