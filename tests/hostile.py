"""Hostile inputs, each with the command that gets it: what tests/test_hostile.py tries some of, and benchmarks/hostile_inputs.py all of.

`inputs` is called in an empty folder that holds `bundle` (a good one) and `good.csv`, and gives cases; a case writes its files when it is made.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MB = 1 << 20
GOOD_ROWS = "".join(f"the team won match number {n},sport\nthe bank lost its profit {n},money\n" for n in range(30))


class Case(NamedTuple):
    kind: str  # yaml, set, csv, json, parquet, images, predict, bundle, out, names, sweep
    name: str
    arguments: list[str]
    make: Callable[[], None]
    code: int = 2  # 0: what was hostile once is read as it is meant now
    quick: bool = False  # one of those that every test run tries


Content = str | bytes | Callable[[], str | bytes]  # large ones are made when they are written


def write(name: str, content: Content) -> Callable[[], None]:
    def make() -> None:
        made = content() if callable(content) else content
        Path(name).write_bytes(made.encode("utf-8", "surrogatepass") if isinstance(made, str) else made)

    return make


def nothing() -> None:
    return None


def inputs() -> Iterator[Case]:
    for group in (_yaml, _set, _csv, _json, _parquet, _images, _predict, _out, _names):
        yield from group()
    from hostile_bundles import bundles

    yield from bundles()


YAML = {
    "nested anchors": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)),
    "an anchor": "name: &x a\n",
    "an alias of nothing": "name: *x\n",
    "an alias of itself": "data: &x {a: *x}\n",
    "merge of an alias": "data: &d {source: good.csv}\nmodel: {<<: *d}\n",
    "5,000 digits": "seeds: [" + "9" * 5000 + "]\n",
    "5,000 digits in hexadecimal": "seeds: [0x" + "f" * 5000 + "]\n",
    "a number in sixties": "seeds: [1" + ":59" * 3000 + "]\n",
    "a number of 90 digits": "seeds: [" + "9" * 90 + "]\n",
    "hexadecimal without digits": "seeds: [0x_]\n",
    "!!int xyz": "seeds: [!!int xyz]\n",
    "!!float xyz": "model: {scale: !!float xyz}\n",
    "!!timestamp of month 13": "name: !!timestamp 2024-13-01\n",
    "!!binary": "name: !!binary '####'\n",
    "!!set": "data: !!set {a, b}\n",
    "!!python": "name: !!python/object/apply:os.system [id]\n",
    "a tag of its own": "name: !run id\n",
    "date of month 13": "seeds: [2024-13-01]\n",
    "date of day 99": "name: {a: 2024-01-99}\n",
    "brackets, 100,000 deep": "[" * 100_000,
    "braces, 10,000 deep": "{a: " * 10_000,
    "dashes, 5,000 deep": "- " * 5000 + "x",
    "question marks, 50,000 deep": "? " * 50_000,
    "indented, 200 deep": "".join(" " * n + "a:\n" for n in range(200)),
    "half of a surrogate pair": 'name: "\\ud800"\n',
    "half of a surrogate pair in a key": '"\\udc00": 1\n',
    "a key twice": "name: a\nname: b\n",
    "a key twice inside": "data: {source: good.csv, source: other.csv}\n",
    "a list as key": "? [a]\n: b\n",
    "a mapping as key": "? {a: b}\n: c\n",
    "merge of a number": "<<: 3\n",
    "two documents": "name: a\n---\nname: b\n",
    "a version of its own": "%YAML 9.9\n---\nname: a\n",
    "control characters": "name: \x1b[2J\n",
    "a null byte": "name: a\0b\n",
    "escaped control characters in a class": 'data: {source: good.csv, classes: ["a\\u001b[2J", b]}\n',
    "not UTF-8": b"name: caf\xe9\n",
    "UTF-16": "name: a\n".encode("utf-16"),
    "two megabytes": "# " + "x" * (2 * MB),
    "200,000 values": "seeds: [" + "1," * 200_000 + "]\n",
    "200,000 empty lists": "seeds: [" + "[]," * 200_000 + "]\n",
    "a key of a megabyte": "k" * (MB - 100) + ": 1\n",
    "a text of a megabyte": "seeds: " + "k" * (MB - 100) + "\n",
    "infinite scale": "model: {scale: .inf}\n",
    "scale that is no number": "model: {scale: .nan}\n",
    "infinite option of the method": "method: {tau: .inf}\n",
    "negative seed": "seeds: [-1]\n",
    "a variant that is no mapping": "variants: {a: {method: 5}}\n",
    "hidden units for a terabyte": "model: {encoder: bilstm, hidden: 1000000}\n",
    "a list": "- a\n- b\n",
    "a number": "5\n",
    "a device name": "name: /dev/null\n",
    "an equals sign": "name: =\n",
    "a prompt with a width": "data: {source: good.csv, prompts: ['{label:>2000000000}']}\n",
    "a prompt with an attribute": "data: {source: good.csv, prompts: ['{label.__class__}']}\n",
    "a prompt with an index": "data: {source: good.csv, prompts: ['{label[0]}']}\n",
    "a prompt with a conversion": "data: {source: good.csv, prompts: ['{label!r}']}\n",
    "a prompt with a width of its own": "data: {source: good.csv, prompts: ['{label:{label}}']}\n",
    "a prompt with a lone brace": "data: {source: good.csv, prompts: ['{label} {']}\n",
    "a prompt without a label": "data: {source: good.csv, prompts: ['a topic']}\n",
}


def _yaml() -> Iterator[Case]:
    quick = {
        "nested anchors",
        "5,000 digits",
        "!!int xyz",
        "brackets, 100,000 deep",
        "half of a surrogate pair",
        "a key twice",
        "a prompt with a width",
    }
    for name, content in YAML.items():
        command = "run" if name in ("infinite option of the method", "a variant that is no mapping", "hidden units for a terabyte") else "data"
        arguments = [command, "x.yaml", *(["--dry-run"] if command == "run" else [])]
        text = (
            content
            if "classes:" in str(content) or "prompts:" not in str(content)
            else str(content).replace("prompts:", "classes: [sport, money], prompts:")
        )
        yield Case("yaml", name, arguments, write("x.yaml", text), quick=name in quick)
    yield Case("yaml", "a folder", ["data", "folder.yaml"], lambda: Path("folder.yaml").mkdir())
    yield Case("yaml", "/dev/zero", ["data", "/dev/zero"], nothing)
    yield Case("yaml", "a name of 5,000 characters", ["data", "x" * 5000 + ".yaml"], nothing, quick=True)
    yield Case(
        "yaml",
        "a date of month 13 where a text belongs",
        ["data", "x.yaml"],
        write("x.yaml", "name: 2024-13-01\ndata: {source: good.csv, label_column: label, test_documents: 20}\n"),
        0,
    )
    for name in ("nested anchors", "brackets, 100,000 deep", "5,000 digits", "a key twice", "!!int xyz"):
        yield Case("sweep", name, ["sweep", "x.yaml", "--dry-run"], write("x.yaml", YAML[name]), quick=name == "nested anchors")
    yield Case(
        "sweep",
        "a base of its own anchors",
        ["sweep", "x.yaml", "--dry-run"],
        lambda: (
            (write("x.yaml", "name: a\nbase: y.yaml\naxes: {method.tau: [1]}\n"), write("y.yaml", YAML["nested anchors"])())
            and write("x.yaml", "name: a\ntitle: t\nbase: y.yaml\naxes: {method.tau: [1.0]}\n")()
        ),
    )


def _set() -> Iterator[Case]:
    values = {
        "5,000 digits": "seeds=[" + "9" * 5000 + "]",
        "!!int xyz": "seeds=[!!int xyz]",
        "a date": "seeds=[2024-13-01]",
        "deep": "name=" + "[" * 5000,
        "an anchor": "name=&a [*a]",
        "half of a surrogate pair": 'name="\\ud800"',
        "a raw surrogate": "name=\udcff",
        "a key twice": "data={source: a, source: b}",
        "a key of 5,000 parts": "a." * 5000 + "b=1",
        "no key": "=1",
        "no value": "name",
        "control characters": "name=\x1b[2J",
        "a null byte": "name=a\0b",
        "infinite": "model.scale=.inf",
        "not a number": "model.scale=nan",
        "python": "name=!!python/name:os.system",
        "a megabyte": "name=" + "x" * 100_000,
        "unclosed": "seeds=[1",
        "control characters in the key": "na\x1b[2Jme=1",
    }
    for name, value in values.items():
        yield Case("set", name, ["data", "--data", "good.csv", "--set", value], nothing, quick=name in ("5,000 digits", "a raw surrogate", "deep"))


def _csv() -> Iterator[Case]:
    header, row = "text,label\n", "a text,sport\n"
    files: dict[str, Content] = {
        "a quote that is never closed": header + row * 3 + '"open,sport\n' + row * 1000,
        "an unclosed quote before 40 MB": lambda: header + '"open,sport\n' + "a text of some length,sport\n" * 1_500_000,
        "a cell of 40 MB": lambda: header + "x" * (40 * MB) + ",sport\n",
        "40 MB of commas": lambda: header + "," * (40 * MB) + "\n",
        "a header of 40 MB": lambda: ",".join(f"c{n}" for n in range(5_000_000)) + "\n",
        "a row of 40 MB in many lines": lambda: header + '"a\n' + '","a\n' * (8 * MB) + '"\n',
        "40 MB of quotes": lambda: '"' * (40 * MB),
        "5 million rows of two bytes": lambda: "text\n" + "a\n" * 5_000_000,
        "two text columns": "text,text\n" + "a,b\n" * 40,
        "two label columns": "text,label,label\n" + "a,b,c\n" * 40,
        "a null byte": header + "a\0b,sport\n" * 2,
        "null bytes alone": lambda: b"\0" * MB,
        "not UTF-8": b"text,label\ncaf\xe9,x\n",
        "not UTF-8 after 3 MB": b"text,label\n" + b"a text,sport\n" * 250_000 + b"caf\xe9,x\n",
        "UTF-16": (header + row).encode("utf-16"),
        "UTF-32": (header + row).encode("utf-32"),
        "gzip": gzip.compress((header + row * 50).encode()),
        "random bytes": np.random.default_rng(0).integers(0, 256, MB, dtype=np.uint8).tobytes(),
        "a header alone": header,
        "carriage returns without a header": "\r" * 1000,
        "control characters in labels": header + "".join(f"a text number {n},\x1b[31mred\n the text {n},blue\n" for n in range(30)),
        "labels that are numbers of 5,000 digits": header + "".join(f"a text number {n},{'9' * 5000}\n the text {n},blue\n" for n in range(30)),
        "one label, composed and decomposed": header + "".join(f"a text number {n},caf\u00e9\nthe text {n},cafe\u0301\n" for n in range(30)),
        "labels of 10,000 characters": header + "".join(f"a text number {n},{'x' * 10_000}{n % 2}\n" for n in range(30)),
    }
    quick = {
        "a quote that is never closed",
        "two text columns",
        "control characters in labels",
        "carriage returns without a header",
        "one label, composed and decomposed",
    }
    for name, content in files.items():
        yield Case("csv", name, ["data", "--data", "x.csv", "--label-column", "label"], write("x.csv", content), quick=name in quick)
    yield Case("csv", "tabs and an unclosed quote", ["data", "--data", "x.tsv", "--classes", "a,b"], write("x.tsv", 'text\n"' + "a\tb\n" * 1000))
    yield Case(
        "csv",
        "carriage returns only",
        ["data", "--data", "x.csv", "--label-column", "label", "--set", "data.test_documents=20"],
        write("x.csv", ("text,label\n" + GOOD_ROWS).replace("\n", "\r")),
        0,
        quick=True,
    )
    compressed: dict[str, tuple[str, Content, int]] = {
        "a compressed file": ("x.csv.gz", gzip.compress(("text,label\n" + GOOD_ROWS).encode()), 0),
        "a gzip bomb": ("x.csv.gz", lambda: gzip.compress(b"text,label\n" + b"a text,sport\n" * (8 * MB)), 2),
        "a gzip bomb in one line": ("x.csv.gz", lambda: gzip.compress(b"text,label\n" + b"x" * (100 * MB)), 2),
        "a gzip bomb of JSON lines": ("x.jsonl.gz", lambda: gzip.compress(b'{"text": [[],[],[],[]], "label": "a"}\n' * (2 * MB)), 2),
        "a gzip bomb with a list": ("x.json.gz", lambda: gzip.compress(b"[" + b'{"text": "a", "label": "b"},' * (2 * MB) + b"{}]"), 2),
        "a torn gzip file": ("x.csv.gz", gzip.compress(("text,label\n" + GOOD_ROWS).encode())[:-20], 2),
        "a gzip file that is none": ("x.csv.gz", "text,label\n" + GOOD_ROWS, 2),
        "a compressed file, compressed again": ("x.csv.gz", gzip.compress(gzip.compress(("text,label\n" + GOOD_ROWS).encode())), 2),
    }
    for name, (file, content, code) in compressed.items():
        arguments = ["data", "--data", file, "--label-column", "label", "--set", "data.test_documents=20"]
        yield Case("csv", name, arguments, write(file, content), code, quick=name in ("a compressed file", "a gzip bomb in one line"))
    yield Case("csv", "a fifo", ["data", "--data", "fifo.csv"], lambda: os.mkfifo("fifo.csv"))


def _json() -> Iterator[Case]:
    deep = '{"text": ' + "[" * 5000 + "]" * 5000 + "}\n"
    files: dict[str, Content] = {
        "5,000 digits": '{"text": "a", "n": ' + "9" * 5000 + "}\n",
        "5,000 deep": deep,
        "100,000 deep": "[" * 100_000 + "\n",
        "braces, 2,000 deep": '{"a":' * 2000 + "1" + "}" * 2000,
        "a key twice": '{"text": "a", "text": "b"}\n',
        "a record of 40 MB": lambda: '{"text": "' + "x" * (40 * MB) + '"}\n',
        "40 MB of empty lists": lambda: '{"text": [' + "[]," * (13 * MB) + "[]]}\n",
        "5 million empty objects": lambda: "{}\n" * 5_000_000,
        "a number": "5\n" * 100,
        "not JSON": "text\n",
        "torn": '{"text": "a"',
        "not UTF-8": b'{"text": "caf\xe9"}\n',
        "null bytes": b"\0" * 1000,
        "half surrogates as keys": '{"\\ud800": 1}\n' * 30,
        "exponents": '{"text": 1e999999999}\n' * 30,
        "NaN": '{"text": NaN, "label": NaN}\n' * 30,
        "a byte order mark in the middle": '{"text": "a"}\n\ufeff{"text": "b"}\n',
    }
    for name, content in files.items():
        yield Case(
            "json",
            name,
            ["data", "--data", "x.jsonl", "--classes", "a,b"],
            write("x.jsonl", content),
            quick=name in ("5,000 digits", "5,000 deep", "a key twice"),
        )
    lists: dict[str, Content] = {
        "a list, 5,000 deep": "[" * 5000 + "]" * 5000,
        "a list with a record of 40 MB": lambda: '[{"text": "' + "x" * (40 * MB) + '"}]',
        "a list with 40 MB of empty lists": lambda: "[[" + "[]," * (13 * MB) + "[]]]",
        "a list that goes on": '[{"text": "a"}] x',
        "a list without commas": '[{"text": "a"} {"text": "b"}]',
        "a list of numbers of 5,000 digits": "[" + "9" * 5000 + "]",
        "a list that is open": '[{"text": "a"},',
        "a text of 40 MB in a list": lambda: '["' + "x" * (40 * MB) + '"]',
    }
    for name, content in lists.items():
        yield Case("json", name, ["data", "--data", "x.json", "--classes", "a,b"], write("x.json", content), quick=name == "a list, 5,000 deep")
    descriptions = {
        "dataset.json, 5,000 deep": "[" * 5000,
        "dataset.json with a number of 5,000 digits": '{"labels": [' + "9" * 5000 + "]}",
        "dataset.json that is a list": "[]",
        "dataset.json with a control character": '{"labels": ["a\\u001b[2J", "b"]}',
        "dataset.json with half of a surrogate pair": '{"labels": ["\\ud800", "b"]}',
        "dataset.json with splits as a number": '{"labels": ["a", "b"], "splits": 5}',
    }
    for name, content in descriptions.items():
        yield Case("json", name, ["data", "--data", "set/"], _folder(content), quick="5,000 deep" in name)


def _folder(description: str) -> Callable[[], None]:
    def make() -> None:
        Path("set").mkdir(exist_ok=True)
        write("set/dataset.json", description)()
        pq.write_table(pa.table({"text": [f"a text {n}" for n in range(60)], "label": [0, 1] * 30}), "set/train.parquet")

    return make


def _table(columns: dict | Callable[[], dict], **how: object) -> Callable[[], None]:
    return lambda: pq.write_table(pa.table(columns() if callable(columns) else columns), "x.parquet", **how)


def _repeated(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def _bytes_changed(start: float, stop: float, mask: int = 0xFF) -> Callable[[], None]:
    def make() -> None:
        _table({"text": [f"a text number {n}" for n in range(2000)]}, compression="zstd")()
        content = bytearray(Path("x.parquet").read_bytes())
        for place in range(int(len(content) * start), int(len(content) * stop)):
            content[place] ^= mask
        Path("x.parquet").write_bytes(content)

    return make


PARQUET: dict[str, Callable[[], None]] = {
    "50 million rows in 150 KB": lambda: pq.write_table(
        pa.table({"text": _repeated("a text", 50_000_000).cast(pa.string())}), "x.parquet", row_group_size=50_000_000
    ),
    "a page of 200 MB in 7 KB": _table(lambda: {"text": ["x" * (200 * MB)]}, compression="zstd"),
    "a list of 50 million": _table(lambda: {"text": [np.zeros(50_000_000, np.int8)]}),
    "common prefixes": _table(
        lambda: {"text": ["x" * 100_000 + str(n) for n in range(2000)]}, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"
    ),
    "pages torn": _bytes_changed(0.02, 0.5),
    "pages torn in places": _bytes_changed(0.1, 0.11),
    "footer torn": _bytes_changed(0.97, 0.99),
    "not Parquet": write("x.parquet", b"PAR1" + b"\0" * 1000 + b"PAR1"),
    "a footer of 4 GB": write("x.parquet", b"PAR1" + b"\0" * 100 + struct.pack("<I", 0xFFFFFFF0) + b"PAR1"),
    "a footer of zeros": write("x.parquet", b"PAR1" + b"\0" * 100 + struct.pack("<I", 50) + b"PAR1"),
    "empty": _table({"text": pa.array([], pa.string())}),
    "encrypted": write("x.parquet", b"PARE" + b"\0" * 100 + struct.pack("<I", 50) + b"PARE"),
    "columns of one name": lambda: pq.write_table(pa.table([pa.array(["a"] * 50), pa.array(["b"] * 50)], names=["text", "text"]), "x.parquet"),
    "torn in the middle": lambda: (
        _table({"text": [f"a text {n}" for n in range(5000)]})(),
        os.truncate("x.parquet", 5000),
    )[1],
}


def _parquet() -> Iterator[Case]:
    for name, make in PARQUET.items():
        yield Case(
            "parquet",
            name,
            ["data", "--data", "x.parquet", "--classes", "a,b"],
            make,
            quick=name in ("pages torn", "a page of 200 MB in 7 KB", "columns of one name"),
        )
    yield Case(
        "parquet",
        "a text of 60 MB, 2,000 times",
        ["data", "--data", "x.parquet", "--classes", "a,b"],
        lambda: pq.write_table(pa.table({"text": _repeated("x" * (60 * MB), 2000)}), "x.parquet", compression="zstd"),
    )
    yield Case(
        "parquet",
        "bytes that are no UTF-8",
        ["data", "--data", "x.parquet", "--classes", "a,b"],
        lambda: pq.write_table(pa.table({"text": pa.array([b"caf\xe9 %d" % n for n in range(30)], pa.binary()).view(pa.string())}), "x.parquet"),
    )


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * min((width * 3 + 1) * height, 300 * MB), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _pictures(content: Callable[[], list[bytes]]) -> Callable[[], None]:
    def columns() -> dict:
        images = content()
        return {"image": images, "label": [n % 2 for n in range(len(images))]}

    return _table(columns)


def _images() -> Iterator[Case]:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(/tmp/owned) (w) file closefile\n%%EOF\n"
    files = {
        "images of 10,000 by 10,000": lambda: [_png(10_000, 10_000)] * 30,
        "images of 100,000 by 100,000": lambda: [_png(100_000, 100_000)] * 2,
        "a thousand empty images of 1,000 by 1,000": lambda: [
            blank + bytes([n % 256, n // 256]) for blank in [_png(1000, 1000)] for n in range(1000)
        ],
        "PostScript": lambda: [eps] * 30,
        "torn images": lambda: [_png(8, 8)[:40]] * 30,
        "bytes that are no images": lambda: [b"\xff" * 100] * 30,
    }
    for name, content in files.items():
        yield Case(
            "images",
            name,
            ["data", "--data", "x.parquet", "--classes", "a,b", "--text-column", "image"],
            _pictures(content),
            quick=name in ("PostScript", "torn images"),
        )


def _predict() -> Iterator[Case]:
    quick = {"5,000 digits", "pages torn", "a quote that is never closed"}
    files: dict[str, tuple[str, Callable[[], None]]] = {
        name: ("x.parquet", make) for name, make in PARQUET.items() if name not in ("columns of one name", "empty", "a list of 50 million")
    }
    files["columns of one name"] = "x.parquet", PARQUET["columns of one name"]
    files["a list of 50 million"] = "x.parquet", PARQUET["a list of 50 million"]
    for name, content in {
        "5,000 digits": '{"text": "a", "n": ' + "9" * 5000 + "}\n",
        "5,000 deep": '{"text": ' + "[" * 5000 + "]" * 5000 + "}\n",
        "a record of 40 MB": lambda: '{"text": "' + "x" * (40 * MB) + '"}\n',
        "10,000 keys": "".join(f'{{"k{n}": 1}}\n' for n in range(10_000)),
        "a key twice": '{"text": "a", "text": "b"}\n',
    }.items():
        files[name] = "x.jsonl", write("x.jsonl", content)
    for name, content in {
        "a quote that is never closed": 'text\na\n"b\n' + "c\n" * 1000,
        "a cell of 40 MB": lambda: "text\n" + "x" * (40 * MB),
        "10,000 columns": ",".join(f"c{n}" for n in range(10_000)) + ",text\n",
        "two text columns": "text,text\na,b\n",
        "null bytes": "\0" * 1000,
    }.items():
        files[name] = "x.csv", write("x.csv", content)
    files["a gzip bomb"] = "x.csv.gz", write("x.csv.gz", lambda: gzip.compress(b"text\n" + b"a text\n" * (8 * MB)))
    files["semicolons and an unclosed quote"] = "x.csv", write("x.csv", 'id;text\n1;"a\n' + "2;b\n" * 1000)
    files["a list of numbers"] = "x.json", write("x.json", "[1, 2]")
    for name, (file, make) in files.items():
        yield Case("predict", name, ["predict", "--bundle", "bundle", "--file", file, "--out", "out.csv"], make, quick=name in quick)


def _out() -> Iterator[Case]:
    predict = ["predict", "--bundle", "bundle", "--file", "good.csv", "--out"]
    yield Case("out", "a folder", [*predict, "folder.csv"], lambda: Path("folder.csv").mkdir(), quick=True)
    yield Case("out", "below a file", [*predict, "good.csv/x.csv"], nothing, quick=True)
    yield Case("out", "in a folder that cannot be made", [*predict, "/proc/x/y.csv"], nothing, quick=True)
    yield Case("out", "in /proc", [*predict, "/proc/y.csv"], nothing)
    yield Case("out", "a name of 300 characters", [*predict, "x" * 300 + ".csv"], nothing, quick=True)
    yield Case("out", "a name of 250 characters", [*predict, "x" * 246 + ".csv"], nothing)
    yield Case("out", "a path of 5,000 characters", [*predict, "x/" * 2500 + "y.csv"], nothing)
    yield Case("out", "a link to itself", [*predict, "loop.csv"], lambda: os.symlink("loop.csv", "loop.csv"), quick=True)
    yield Case("out", "a link to another file", [*predict, "link.csv"], lambda: os.symlink("other.csv", "link.csv"))
    yield Case("out", "a null byte", [*predict, "a\0b.csv"], nothing)
    yield Case("out", "a fifo", [*predict, "fifo.csv"], lambda: os.mkfifo("fifo.csv"))
    yield Case("out", "the source itself", [*predict, "good.csv"], nothing)
    for command in (
        ["generate", "--classes", "a,b", "--per-class", "1", "--model", "nowhere", "--out"],
        ["export", "bundle", "--documents", "good.csv", "--out"],
        ["distill", "bundle", "--documents", "good.csv", "--out"],
    ):
        yield Case("out", f"{command[0]} into /proc", [*command, "/proc/x"], nothing, quick=command[0] == "generate")
        yield Case("out", f"{command[0]} into a file", [*command, "good.csv"], nothing)
        yield Case("out", f"{command[0]} below a file", [*command, "good.csv/x"], nothing)
        yield Case("out", f"{command[0]} into a name of 300 characters", [*command, "x" * 300], nothing)
        yield Case("out", f"{command[0]} into a link", [*command, "link"], lambda: os.symlink("nowhere", "link"))
    yield Case("out", "leaderboard into a folder", ["leaderboard", "--html", "page.html"], lambda: Path("page.html").mkdir())
    yield Case("out", "leaderboard into /proc", ["leaderboard", "--html", "/proc/x.html"], nothing, quick=True)
    yield Case("out", "a source of 5,000 characters", ["predict", "--bundle", "bundle", "--file", "x" * 5000 + ".csv", "--out", "o.csv"], nothing)
    yield Case("out", "a source with a null byte", ["predict", "--bundle", "bundle", "--file", "a\0.csv", "--out", "o.csv"], nothing)


def _names() -> Iterator[Case]:
    for name, classes in {
        "one letter twice": "a,a",
        "composed and decomposed": "caf\u00e9,cafe\u0301",
        "control characters": "a\x1b[2J,b",
        "empty": ",",
        "a line break": "a\nb,c",
        "reversed writing": "a\u202eb,c",
        "10,000 characters": "x" * 10_000 + ",y",
        "one": "a",
    }.items():
        yield Case(
            "names",
            name,
            ["data", "--data", "good.csv", "--classes", classes],
            nothing,
            quick=name in ("composed and decomposed", "control characters"),
        )
