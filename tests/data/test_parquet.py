"""Page headers as they are read before a page is: real ones agree with what was written, and made-up ones are damage."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selftrain.data.parquet import open_checked, read_header
from selftrain.errors import SelfTrainError


def test_the_headers_of_a_file_say_what_its_pages_hold(tmp_path):
    pq.write_table(pa.table({"text": [f"a text {n}" for n in range(1000)]}), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    column = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(0)
    with (tmp_path / "a.parquet").open("rb") as stream:
        page, length = read_header(stream, column.data_page_offset)
    assert page.values == 1000 and page.bytes == page.compressed
    assert length + page.compressed == column.total_compressed_size


@pytest.mark.parametrize(
    "content", [b"\x19" + b"\x19" * 3000, b"\x1c" * 3000, b"", b"\x15", b"\x00", b"\x1f", b"\x18\xff\xff\xff\xff\x0f", b"\x16" + b"\xff" * 20]
)
def test_what_is_no_header_is_damage(content):
    with pytest.raises((ValueError, IndexError)):
        read_header(io.BytesIO(content), 0)


def test_a_text_that_is_repeated_is_one_object(tmp_path):
    long = "x" * 1000
    pq.write_table(pa.table({"text": [long, "short"] * 5000}), tmp_path / "a.parquet")
    from selftrain.data.reading import parquet_rows

    rows = list(parquet_rows(tmp_path / "a.parquet", ("text",), None))
    assert len(rows) == 10_000 and [row.text for row in rows[:3]] == [long, "short", long]
    assert len({id(row.text) for row in rows if row.text == long}) <= 2  # in a batch; there are two


def test_a_page_of_many_bytes_is_refused_before_it_is_decompressed(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["x" * 100_000]}), tmp_path / "a.parquet", compression="zstd")
    open_checked(tmp_path / "a.parquet")
    monkeypatch.setattr("selftrain.data.parquet.PAGE_BYTES", 50_000)
    with pytest.raises(SelfTrainError, match="has a page of"):
        open_checked(tmp_path / "a.parquet")
