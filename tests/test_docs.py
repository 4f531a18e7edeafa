"""The documentation is true: its commands parse, its Python runs, its links and names exist, its tables are those of their CSV, and it keeps within its bounds."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from programs import program
from tiny import tiny_backbone

import selftrain
from selftrain.errors import SelfTrainError
from selftrain.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "requirements/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [f"the team and its coach won match {n}" for n in range(12)] + [f"the minister and the party lost vote {n}" for n in range(12)]


def module(name: str):
    sys.path[:0] = [] if str(ROOT / "docs") in sys.path else [str(ROOT / "docs")]  # as where they are run
    return program(f"docs/{name}.py")


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs")
    return module("hooks")


def code_lines(page: Path) -> list[str]:
    """The lines of indented and fenced blocks that are not Python or YAML, continuation lines joined."""
    found, fence = [], None
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.strip("`")
        elif fence in ("", "bash") or (fence is None and line.startswith("    ")):
            found.append(line.strip())
    return found


def commands_of(page: Path) -> list[str]:
    """Every command line that begins with `selftrain`, in blocks and in the text."""
    inline = re.findall(r"`(selftrain [a-z]+ [^`]+)`", page.read_text(encoding="utf-8"))
    return [line for line in [*code_lines(page), *inline] if line.startswith("selftrain ")]


COMMANDS = [(page, line) for page in PAGES for line in commands_of(page)]


@pytest.mark.parametrize(("page", "line"), [pytest.param(page, line, id=f"{page.stem}: {line[:60]}") for page, line in COMMANDS])
def test_every_command_parses(hooks, page, line):
    """By the parser that users meet; `...` and NAMES in capitals stand for a path."""
    words = shlex.split(line, comments=True)[1:]
    if words == ["--help"]:
        return
    try:
        hooks.command_line().parse_args(words)
    except (SelfTrainError, SystemExit) as error:
        pytest.fail(f"{page.relative_to(ROOT)}: {line}: {error}")


def test_a_command_that_does_not_parse_would_be_seen(hooks):
    with pytest.raises((SelfTrainError, SystemExit)):
        hooks.command_line().parse_args(["run", "--no-such-option"])
    assert len(COMMANDS) > 60


def test_targets_and_files_that_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.M):
            if target not in targets:
                missing.append(f"{page.name}: make {target}")
        for path in re.findall(r"(?<![\w/])(?:jobs|tune_spaces|benchmarks|serve)/[\w/-]+\.(?:yaml|py)", text):
            if page.name != "CHANGELOG.md" and page.name != "architecture.md" and not (ROOT / path).exists():
                missing.append(f"{page.name}: {path}")
    assert missing == []


def test_tests_that_the_makefile_names_exist():
    quick = re.search(r"^QUICK := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1].replace("\\\n", " ").split()
    assert len(quick) > 8 and [path for path in quick if not (ROOT / path).exists()] == []


def test_files_and_tests_that_the_promises_of_security_name_exist():
    """The page is worth what its tests are: those have to be there."""
    text = (ROOT / "docs/howto/security.md").read_text(encoding="utf-8")
    found = re.findall(r"`((?:[\w-]+/)*[\w-]+\.py)(?:::(\w+))?`", text)
    assert sum(bool(test) for _, test in found) > 10
    missing = []
    for path, test in found:
        file = next((place / path for place in (ROOT / "tests", ROOT / "platform/selftrain", ROOT) if (place / path).is_file()), None)
        if file is None or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(path + (f"::{test}" if test else ""))
    defined = {name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))}
    missing += [name for name in re.findall(r"`(test_\w+)`", text) if name not in defined]
    assert missing == []


def test_pages_that_files_name_exist():
    missing = []
    for folder in ("platform", "serve", "jobs", "tune_spaces", "benchmarks", "tests", "docs/results"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".md") and file != Path(__file__):
                pages = re.findall(r"docs/[\w/]+\.md", file.read_text(encoding="utf-8", errors="ignore"))
                missing += [f"{file.relative_to(ROOT)}: {page}" for page in pages if not (ROOT / page).exists()]
    assert missing == []


def test_relative_links_of_pages_lead_somewhere():
    generated = {
        "docs/methods/index.md",
        "docs/reference/config.md",
        "docs/reference/cli.md",
        "docs/reference/python.md",
        "docs/changelog.md",
        "docs/contributing.md",
    }
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if not target.exists() and str(target.relative_to(ROOT)) not in generated:
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []


def blocks() -> list[tuple[str, str]]:
    """Python of the pages, and of the docstrings of the package and its classes."""
    found = [
        (f"{page.relative_to(ROOT)}-{number}", code)
        for page in PAGES
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
    ]
    for name, thing in (("selftrain", selftrain), ("SelfTrainer", selftrain.SelfTrainer)):
        text = inspect.cleandoc(thing.__doc__ or "")
        block = "".join(re.findall(r"^(?:    .*\n|\n(?=    ))+", text.split("\nArgs:")[0] + "\n", re.M))
        found.append((f"docstring of {name}", "from selftrain import SelfTrainer\n" + inspect.cleandoc(block)))
    return found


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny_backbone(folder / "parts").save_pretrained(str(folder / "encoder"))
    return str(folder / "encoder")


class Endpoint(BaseHTTPRequestHandler):
    """What the client asks an endpoint for."""

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"models": [], "limits": {"texts": 256, "characters": 20_000, "body_bytes": 1 << 20}})

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["texts"]
        one = {"label": "sport", "probability": 0.9, "probabilities": {"sport": 0.9}, "abstain": False, "truncated": False}
        self.answer({"model": {"name": "mail", "version": "1"}, "results": [one] * len(texts)})

    def log_message(self, *_):
        return


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(("where", "code"), [pytest.param(where, code, id=where) for where, code in blocks()])
def test_the_python_of_docs_and_docstrings_runs(where, code, encoder_folder, endpoint, tmp_path, monkeypatch, capsys):
    """With a tiny encoder, without a language model, and with an endpoint that answers at once."""
    real = selftrain.SelfTrainer
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selftrain, "SelfTrainer", lambda language_model=None, **given: real(encoder=encoder_folder, **given), raising=False)
    code = code.replace("http://127.0.0.1:8000", endpoint)
    # "and so on" in a list of labels: unlabeled ones
    code = re.sub(r"\[([^][]*), \.\.\.\]", lambda found: f"[{found[1]}] + [None] * (len(texts) - {found[1].count(',') + 1})", code)
    assert "selftrain" in code
    exec(compile(code, where, "exec"), {"texts": list(TEXTS)})


def test_enough_python_is_run():
    assert len(blocks()) >= 6
    for _, code in blocks():
        ast.parse(code)


def test_every_method_has_a_card(hooks):
    nav = json.dumps(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    for name in METHODS:
        page = (ROOT / "docs/methods" / f"{name}.md").read_text(encoding="utf-8")
        assert f"methods/{name}.md" in nav, name
        for part in ("<!-- facts -->", "<!-- options -->", "**Use it**", "| equation | function |", "## Results"):
            assert part in page, (name, part)
        assert f"`selftrain methods {name}`" in hooks.facts(name)
        assert all(f"`method.{key}`" in hooks.options(name) for key in hooks.classes()[name].Options.model_fields if key != "name")
    assert all(f"[`{name}`]({name}.md)" in hooks.methods_page() for name in METHODS)


def test_functions_that_cards_name_exist():
    """In the column "function" of the equations; moved functions are found, renamed ones are not."""
    source = "\n".join(
        file.read_text(encoding="utf-8") for room in ("methods", "models") for file in (ROOT / "platform/selftrain" / room).rglob("*.py")
    )
    defined = set(re.findall(r"^\s*(?:def|class) (\w+)", source, re.M))
    missing = []
    for name in METHODS:
        page = (ROOT / "docs/methods" / f"{name}.md").read_text(encoding="utf-8")
        rows = re.search(r"^\| equation \| function \|\n\| --- \| --- \|\n((?:\|.*\n)+)", page, re.M)
        for function in re.findall(r"`([\w.]+)`", "".join(row.split("|")[2] for row in rows[1].splitlines())):
            if function.rpartition(".")[2] not in defined:
                missing.append(f"{name}: {function}")
    assert missing == []


def test_the_configuration_page_has_every_key(hooks):
    from selftrain.config import Experiment

    page = hooks.config_page()
    for section, field in Experiment.model_fields.items():
        below = getattr(field.annotation, "model_fields", None)
        for key in [f"{section}.{name}" for name in below] if below else [section]:
            assert f"`{key}`" in page, key


def test_tables_are_those_of_their_csv():
    tables = module("tables")
    assert len(tables.pages()) == 21
    assert [page.name for page in (ROOT / "docs").rglob("*.md") if tables.remade(page) != page.read_text(encoding="utf-8")] == []


TABLE = re.compile(r"^\|.*\|\n\|[ :|-]+\|\n(?:\|.*\|\n?)+", re.M)
OF_SETTINGS = ("## Options", "## Optimisers", "## What auto comes to")  # defaults and the papers' values: nothing is measured


def tables_without_origin(page: Path, text: str) -> list[str]:
    """The sections of a page with a table of figures, but without the CSV behind it or without the command that makes it.

    A page of results has its CSV beside it; docs/science.md draws every figure from the CSVs of other pages (docs/differences.py).
    """
    found = []
    for section in re.split(r"^(?=## )", text, flags=re.M):
        heading = section.partition("\n")[0]
        if heading in OF_SETTINGS or max((len(re.findall(r"(?<![\w.])\d*\.\d+(?![\w.])", table)) for table in TABLE.findall(section)), default=0) < 4:
            continue
        data = ".csv" in section or (page.parent.name == "results" and page.with_suffix(".csv").exists())
        command = re.search(r"(?:^    |`)(?:selftrain|python|make) ", text if page.parent.name == "results" else section, re.M)
        found += [] if data and command else [f"{page.name}: {heading}"]
    return found


def test_every_table_of_figures_has_its_csv_and_its_command():
    pages = [page for page in PAGES if page.name not in ("CHANGELOG.md", "science.md")]
    assert [line for page in pages for line in tables_without_origin(page, page.read_text(encoding="utf-8"))] == []
    results = sorted((ROOT / "docs/results").glob("*.md"))
    assert len(results) > 20 and [page.name for page in results if not page.with_suffix(".csv").exists()] == []


def test_a_table_without_its_csv_or_its_command_would_be_seen():
    page, table = ROOT / "docs/howto/harm.md", "| a | b |\n| --- | --- |\n| .91 ± .01 | .90 ± .02 |\n"
    command, data = "    python benchmarks/harm.py\n\n", "[csv](../results/harm.csv)\n\n"
    assert tables_without_origin(page, f"# Harm\n\n## Measured\n\n{command}{data}{table}") == []
    assert tables_without_origin(page, f"# Harm\n\n{data}{command}\n## Measured\n\n{command}{table}") == ["harm.md: ## Measured"]
    assert tables_without_origin(page, f"## Measured\n\n{data}{table}") == ["harm.md: ## Measured"]
    assert tables_without_origin(ROOT / "docs/results/none.md", f"# None\n\n{command}{table}") == ["none.md: # None"]
    assert tables_without_origin(page, f"## Options\n\n{table}") == tables_without_origin(page, table.replace(".91 ± .01", "1")) == []


def test_figures_of_experiments_have_an_origin_and_a_page():
    """Both files are there, and say what a reader has to know; neither names a machine, a person or a folder."""
    folder = ROOT / "docs/results/experiments"
    shown = {name for page in PAGES for name in re.findall(r"<!-- experiment: ([\w-]+)", page.read_text(encoding="utf-8"))}
    assert {file.stem for file in folder.glob("*.csv")} == {file.stem for file in folder.glob("*.yaml")}
    linked = {name for page in PAGES for name in re.findall(r"results/experiments/([\w-]+)\.csv\)", page.read_text(encoding="utf-8"))}
    assert shown <= {file.stem for file in folder.glob("*.csv")} == linked
    for file in folder.glob("*.yaml"):
        origin = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert all(origin[key] for key in ("command", "date", "machine", "settings chosen on")), file
        assert origin["version"] or origin["figures"], f"{file}: nothing but figures that a page printed may lack the version"
        assert not re.search(r"(^|[\s='\"])(/|~|\.\.)\w", file.read_text(encoding="utf-8")), file
        assert (
            file.with_suffix(".csv").read_text(encoding="utf-8").startswith("variant,seed,inference,labels,documents,bound,accuracy,macro_f1,ece\n")
        )


def finished_run(folder: Path, *, seeds=(0, 1, 2), command="selftrain run jobs/experiments/bbc_news.yaml", **changed) -> Path:
    """The folder of a run with two variants, whose accuracies differ by .02, .03 and .04."""
    folder.mkdir()
    accuracy = {"plain": [0.90, 0.91, 0.92], "better": [0.92, 0.94, 0.96]}
    rows = [
        {"variant": name, "seed": seed, "inference_augmentation": False, "supervision": "none", "documents": 100}
        | {"scores": {"accuracy": values[seed], "macro_f1": values[seed] - 0.01, "ece": 0.1}}
        for name, values in accuracy.items()
        for seed in seeds
    ]
    metrics = {
        "run": {
            "command": command,
            "started": "2026-11-28T10:00:00+00:00",
            "seconds": 61.4,
            "code_version": "0.1.0+abc",
            "config_fingerprint": "c0ffee",
        },
        "versions": {"torch": "2"},
        "asked": {"encoder": "/home/someone/all-MiniLM-L6-v2", "llm": None},
        "data": {"name": "bbc_news", "fingerprint": "d1", "unlabeled": 500, "test": 100},
        "rows": rows,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics | changed), encoding="utf-8")
    return folder


@pytest.fixture
def experiments(monkeypatch, tmp_path):
    made = module("experiments")
    monkeypatch.setattr(made, "FOLDER", tmp_path / "docs/results/experiments")
    return made


def test_a_run_becomes_a_table_with_its_origin(experiments, tmp_path):
    run = finished_run(tmp_path / "run", command="selftrain run jobs/experiments/bbc_news.yaml\nselftrain run --resume /somewhere/run")
    file = experiments.record("bbc", [run], "nothing of BBC News", machine="2 CPU cores")
    assert file.read_text().splitlines()[1] == "plain,0,plain,none,100,,0.9,0.89,0.1"
    assert "/" not in file.with_suffix(".yaml").read_text().replace("jobs/experiments/bbc_news.yaml", "")
    page = tmp_path / "docs/methods/genco.md"
    text = experiments.remade("a\n\n<!-- experiment: bbc\nagainst: plain\nrows: {plain: , better: ours}\n-->\n<!-- end -->\n\nb", page, file.parent)
    assert "| variant | n | accuracy | 95 % interval | macro-F1 | ECE | difference from plain | p | p, Holm |" in text
    # t of the differences: .03 / (.01 / sqrt(3)) = 5.196 with two degrees of freedom; 4.3027 sd / sqrt(3) is the half interval
    assert "| plain | 3 | 0.910 ± 0.010 | 0.885 to 0.935 | 0.900 ± 0.010 | 0.100 ± 0.000 |  |  |  |" in text
    assert "| ours | 3 | 0.940 ± 0.020 | 0.890 to 0.990 | 0.930 ± 0.020 | 0.100 ± 0.000 | +0.030 (+0.005 to +0.055) | .035 | .035 |" in text
    assert (
        "[bbc.csv](../results/experiments/bbc.csv), `selftrain run jobs/experiments/bbc_news.yaml`; 2026-11-28, 2 CPU cores, selftrain 0.1.0+abc."
        in text
    )
    assert text.endswith("Settings chosen on: nothing of BBC News.\n\n<!-- end -->\n\nb")
    assert experiments.remade(text, page, file.parent) == text
    assert experiments.remade(text.replace(" .035", " .034"), page, file.parent) == text, "a figure that is not that of the CSV is seen"
    assert "| [bbc](../results/experiments/bbc.csv) |" in experiments.remade("<!-- experiments -->\n<!-- end -->", page, file.parent)


def test_every_round_of_a_run_is_kept_and_shown(experiments, tmp_path):
    rounds = [
        {"variant": name, "seed": seed, "round": number, "figures": {"loss": 1.0, "test_accuracy": accuracy + seed / 10, "test_auc": accuracy}}
        for name, values in (("plain", (0.6, 0.5, 0.4)), ("better", (0.5, 0.6, 0.8)))
        for seed in (0, 1)
        for number, accuracy in enumerate(values, 1)
    ]
    file = experiments.record("bbc", [finished_run(tmp_path / "run", seeds=(0, 1), rounds=rounds)], "nothing", command="selftrain run")
    assert (file.parent / "rounds" / "bbc.csv").read_text().splitlines()[:2] == ["variant,seed,round,accuracy,auc", "plain,0,1,0.6,0.6"]
    page = tmp_path / "docs/methods/page.md"
    text = experiments.remade("<!-- experiment: bbc\nagainst: plain\nlast_rounds: 2\n-->\n<!-- end -->", page, file.parent)
    assert (
        "| better | 2 | 0.750 ± 0.071 | 0.115 to 1.385 | 0.700 ± 0.000 | +0.250 (+0.250 to +0.250) |" in text
    )  # (.6 + .8) / 2 and .1 more; AUC; .7 - .45
    assert "Accuracy and AUC are means over the last 2 rounds." in text
    text = experiments.remade("<!-- experiment: bbc\nby_round: true\n-->\n<!-- end -->", page, file.parent)
    assert "| variant | n | 1 | 2 | 3 |" in text and "| plain | 2 | 0.650 | 0.550 | 0.450 |" in text
    (file.parent / "rounds" / "bbc.csv").unlink()
    with pytest.raises(SelfTrainError, match=r"record a run with evaluation\.every_round"):
        experiments.remade("<!-- experiment: bbc\nby_round: true\n-->\n<!-- end -->", page, file.parent)


def test_seeds_that_were_run_apart_come_together_and_what_does_not_fit_is_refused(experiments, tmp_path):
    first, second = finished_run(tmp_path / "a", seeds=[0]), finished_run(tmp_path / "b", seeds=[1, 2])
    assert len(experiments.record("bbc", [first, second], "nothing").read_text().splitlines()) == 1 + 6
    other = finished_run(tmp_path / "c", data={"name": "bbc_news", "fingerprint": "d2", "test": 100})
    ours = finished_run(tmp_path / "d", command="selftrain run --data /home/someone/mail.csv")
    for folders, why in (
        ([first, first], "seed 0"),
        ([first, other], "not of the same documents"),
        ([ours], "folder of this machine"),
        ([tmp_path], "finished"),
    ):
        with pytest.raises(SelfTrainError, match=why):
            experiments.record("bbc", folders, "nothing")
    assert experiments.record("mail", [ours], "nothing", command="selftrain run --data mail.csv").exists()
    for marker, why in (
        ("experiment: none", "no none.csv"),
        ("experiment: bbc\nrows: [other]", "no row 'other'"),
        ("experiment: bbc\nrow: [plain]", "cannot be read"),
    ):
        with pytest.raises(SelfTrainError, match=why):
            experiments.remade(f"<!-- {marker}\n-->\n<!-- end -->", tmp_path / "page.md", experiments.FOLDER)
    with pytest.raises(SelfTrainError, match="no <!-- end -->"):
        experiments.remade("<!-- experiment: bbc -->\n\n<!-- experiment: mail -->\n<!-- end -->", tmp_path / "page.md", experiments.FOLDER)


def test_a_table_that_is_not_that_of_its_csv_would_be_seen(tmp_path):
    tables = module("tables")
    figures = (tables.RESULTS / "genco_tau.csv").read_text(encoding="utf-8")
    page = (tables.RESULTS / "genco_tau.md").read_text(encoding="utf-8")
    (tmp_path / "page.csv").write_text(figures, encoding="utf-8")
    right = re.search(r"\| (\d\d\.\d\d ± \d\.\d\d) \|", page)[1]
    (tmp_path / "page.md").write_text(page.replace(right, "12.34 ± 5.67"), encoding="utf-8")
    remade = tables.remade(tmp_path / "page.md")
    assert right in remade and "12.34 ± 5.67" not in remade


@pytest.fixture
def differences(tmp_path):
    made = module("differences")
    folder = tmp_path / "docs/results/experiments"
    folder.mkdir(parents=True)
    rows = {"plain": [0.90, 0.91, 0.92], "better": [0.92, 0.94, 0.96], "other": [0.91, 0.91, 0.93]}
    lines = [f"{name},{seed},plain,none,100,,{value},," for name, values in rows.items() for seed, value in enumerate(values)]
    lines += ["better,0,augmented,none,100,,0.1,,", "other,3,plain,none,100,,0.5,,"]  # another way of inference, and a seed that no other row has
    header = "variant,seed,inference,labels,documents,bound,accuracy,macro_f1,ece"
    (folder / "bbc.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    sweep = ["rate,data set,metric,mean,std,seeds,best,p,paper,seed 0,seed 1", "1,TREC,error,,,2,,,,30,20", "2,TREC,error,,,2,,,,20,20"]
    (folder.parent / "rates.csv").write_text("\n".join(sweep) + "\n", encoding="utf-8")
    return lambda text: made.remade(text, tmp_path / "page.md", folder)


def test_a_difference_has_its_interval_its_seeds_and_holms_p(differences):
    first, second = "<!-- difference: bbc; better; plain -->", "<!-- difference: bbc; other; plain -->"
    text = differences(f"a {first}<!-- end --> b {second}stale<!-- end -->")
    # .02, .03, .04 with 4.3027 sd / sqrt(3) on each side; p of experiments' test above, doubled by Holm as the smaller of two
    assert f"a {first}+3.0 (+0.5 to +5.5; n 3; p .035, Holm .070)<!-- end --> b" in text
    assert f"{second}+0.7 (-0.8 to +2.1; n 3; p .184, Holm .184)<!-- end -->" in text, "the seed that one row alone has does not count"
    assert differences(text) == text
    alone = differences(f"{first}<!-- end --><!-- difference: rates; 2 · TREC; 1 · TREC --><!-- end -->")
    assert "p .035)" in alone, "tables are families of their own"
    assert "+5.0 (-58.5 to +68.5; n 2; p .500)" in alone, "a lower error is a higher accuracy"


def test_a_mean_has_its_deviation_and_its_seeds(differences):
    assert differences("a <!-- mean: bbc; better -->stale<!-- end --> b") == "a <!-- mean: bbc; better -->0.940 ± 0.020 (n 3)<!-- end --> b"
    assert ">0.750 ± 0.071 (n 2)<" in differences("<!-- mean: rates; 1 · TREC --><!-- end -->"), "an error of 30 and 20 %"
    for marker, why in (("mean: bbc; none", "no row 'none'"), ("mean: none; plain", "no table none"), ("mean: bbc", "not of the form")):
        with pytest.raises(SelfTrainError, match=why):
            differences(f"<!-- {marker} --><!-- end -->")


def test_several_rows_are_one_by_their_means_of_the_seeds_that_all_have(differences):
    """.015, .015, .025 above: t is 5.5 with two degrees of freedom, and p = 1 - 5.5 / sqrt(5.5^2 + 2)."""
    text = differences("<!-- difference: bbc; better & other; plain --><!-- end --> <!-- difference: bbc; plain; other & better --><!-- end -->")
    assert "+1.8 (+0.4 to +3.3; n 3; p .032, Holm .063)" in text and "-1.8 (-3.3 to -0.4; n 3; p .032, Holm .063)" in text


def test_a_sweeps_table_has_the_reference_of_its_space():
    tables = module("tables")
    assert tables.reference_in("genco_tau", small=True) == {"method.tau": "0.1"}
    assert tables.reference_in("ssc_labels", small=True) == {"method": "FixMatch"}


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        ("<!-- difference: none; a; b --><!-- end -->", "no table none"),
        ("<!-- difference: bbc; better; worse --><!-- end -->", "no row 'worse'"),
        ("<!-- difference: bbc; better & worse; plain --><!-- end -->", "no row 'worse'"),
        ("<!-- difference: bbc; better --><!-- end -->", "not of the form"),
        ("<!-- difference: bbc; better; plain --> and no end", "not of the form"),
    ],
)
def test_a_difference_that_there_is_not_is_refused(differences, marker, why):
    with pytest.raises(SelfTrainError, match=why):
        differences(marker)


def test_the_readme_is_short_and_shows_both_pictures():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 120
    for picture in ("docs/pictures/report.png", "docs/pictures/page.png"):
        assert f"]({picture})" in "\n".join(lines) and (ROOT / picture).exists()


def test_pages_name_no_folder_of_ours():
    for page in PAGES:
        assert not re.search(r"\.\./shared|SELFTRAIN_DATA=", page.read_text(encoding="utf-8")), page


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    site = tmp_path / "site"
    assert "tau" in (site / "methods/genco.html").read_text() and "def fit" not in (site / "index.html").read_text()
    assert "selftrain.errors" in (site / "reference/python.html").read_text()
    for page in site.rglob("*.html"):  # nothing is loaded from elsewhere
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!127)[^"]*\.(?:js|css|woff2?|png)', page.read_text()), page
