"""`selftrain submit` and `selftrain jobs`: the command line that a job gets, what is refused before anything is sent, and what is said. No cluster is asked."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from selftrain.cli import jobs as room
from selftrain.cli import main
from selftrain.cli.main import build_parser
from selftrain.cli.placing import placed_space
from selftrain.cli.submitted import WORDS
from selftrain.config import load
from selftrain.errors import ServiceError
from selftrain.runtime import jobs as runtime
from selftrain.runtime.jobs import Job
from selftrain.runtime.upload import KEPT, Upload
from selftrain.sweeps.space import load_space

ROOT = Path(__file__).parents[2]
KEY = "sk-this-is-a-secret"


class Cluster:
    """In place of `Jobs`: keeps what is submitted, and tells of one job."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "uploaded"
        self.submitted: list[tuple[list[str], str]] = []
        self.addresses: list[str | None] = []
        self.alone = False
        self.known = Job("run-1", "succeeded", "selftrain submit run x.yaml", None, ("run",), Path("/s"), 0, "")
        self.follows: object = None

    def __call__(self, address: str | None = None) -> Cluster:
        self.addresses.append(address)
        return self

    def here(self) -> bool:
        return self.alone

    def submit(self, arguments, upload, *, command):
        upload.write(self.folder)
        self.submitted.append((arguments, command))
        return "run-1"

    def follow(self, id_, write):
        if isinstance(self.follows, BaseException):
            raise self.follows
        write("[10:00:00] training ...\n")
        return self.known

    def list(self):
        return [self.known]

    def job(self, id_):
        return self.known

    stop = resume = None

    def logs(self, id_):
        return "so far\n"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    made = Cluster(tmp_path)
    monkeypatch.setattr(runtime, "Jobs", made)
    for name in ("SELFTRAIN_STORAGE", "MLFLOW_TRACKING_URI", "SELFTRAIN_LANGUAGE_MODEL_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return made


def submitted(cluster: Cluster, command: str) -> list[str]:
    """The command line of the job, which parses on the cluster too."""
    assert main(["submit", *shlex.split(command), "--storage", "/s"]) == 0
    arguments, asked = cluster.submitted[-1]
    assert asked == shlex.join(["selftrain", "submit", *shlex.split(command), "--storage", "/s"])
    options = build_parser().parse_args(arguments)
    assert options.command is not room._submit
    return arguments


def sent(cluster: Cluster, arguments: list[str]) -> Path:
    """The file of the last word, as it was uploaded."""
    place = Path(arguments[-1])
    assert place.is_relative_to(f"/s/{KEPT}")
    return cluster.folder / place.relative_to("/s")


def test_every_command_that_can_be_submitted_is_handled():
    (kinds,) = (action for action in build_parser()._actions if action.choices)
    (below,) = (action for action in kinds.choices["submit"]._actions if action.choices)
    assert set(below.choices) == set(WORDS) == {"run", "sweep", "generate", "distill", "predict", "audit"}
    for parser in below.choices.values():
        for example in parser.get_default("examples"):
            assert build_parser().parse_args(shlex.split(example)[1:]).kind in WORDS
        assert parser.flags()["storage"] == "--storage" and parser.get_default("continues") is None


def test_a_run_is_one_file_with_everything_that_was_said(cluster):
    Path("news.csv").write_text("text,label\na,x\n")
    Path("x.yaml").write_text("name: news\ndata: {source: news.csv}\nmethod: {name: genco}\n")
    arguments = submitted(cluster, 'run x.yaml --classes "x, y" --set method.tau=0.05 --promote --dry-run --address http://head:8265')
    assert arguments[:-1] == ["run", "--dry-run", "--address=auto"] and Path(arguments[-1]).name == "x.yaml"
    asked = load(sent(cluster, arguments))
    assert asked.name == "news" and asked.data.classes == ("x", "y") and asked.method["tau"] == 0.05 and asked.tracking.promote
    assert (asked.output, asked.augment.cache, asked.model.cache) == ("/s/runs", "/s/.selftrain/texts", "/s/.selftrain/embeddings")
    assert asked.ray.address is None and asked.tracking.uri is None
    assert (cluster.folder / Path(asked.data.source).relative_to("/s")).read_text() == "text,label\na,x\n"
    assert cluster.addresses == ["http://head:8265"]


def test_a_run_without_a_file_has_one_of_its_name(cluster):
    arguments = submitted(cluster, "run --data bbc_news")
    assert Path(arguments[-1]).name == "selftrain.yaml" and load(sent(cluster, arguments)).data.source == "bbc_news"


def test_a_run_that_is_continued_takes_nothing_along(cluster):
    assert submitted(cluster, "run --resume runs/x --set seeds=[0,1]") == ["run", "--resume=/s/runs/x", "--set=seeds=[0,1]", "--address=auto"]
    assert submitted(cluster, "sweep --resume /s/runs/sweeps/x --at-once 3") == [
        "sweep",
        "--resume=/s/runs/sweeps/x",
        "--at-once=3",
        "--address=auto",
    ]
    assert not cluster.folder.exists()


def test_a_sweep_is_one_file_at_the_size_that_was_asked_for_with_the_same_cells(cluster):
    file = ROOT / "tune_spaces" / "genco_tau.yaml"
    arguments = submitted(cluster, f"sweep {file} --small --at-once 2 --set method.rounds=3")
    assert arguments[:-1] == ["sweep", "--at-once=2", "--address=auto"]
    asked, here = load_space(sent(cluster, arguments)), load_space(file, small=True, overrides=["method.rounds=3"])
    assert asked.columns == here.columns and asked.seeds == here.seeds and not asked.small
    (first, *_), column, seed = here.settings(), here.columns[0], here.seeds[0]
    assert asked.cell(first, column, seed).fingerprint == here.cell(first, column, seed).fingerprint, "results of both are the same cells"
    assert asked.paper.figures["released · 0.5"] == {column: here.paper.figures["released · 0.5"][column]}, "of the columns that it has"
    experiment = asked.experiment(first, column)
    assert experiment.method["rounds"] == 3
    assert (experiment.output, experiment.augment.cache, experiment.model.cache) == ("/s/runs", "/s/.selftrain/texts", "/s/.selftrain/embeddings")


def test_the_files_of_a_sweep_travel_from_wherever_it_names_them(cluster):
    for name in ("base", "column", "axis", "named"):
        Path(f"{name}.csv").write_text(f"text\n{name}\n")
    document = {
        "name": "x",
        "title": "x",
        "base": {"data": {"source": "base.csv"}, "output": "mine"},
        "axes": {"data.test_source": ["axis.csv", "bbc_news"], "who": {"low": {}, "b": {"data": {"test_source": "named.csv"}}}},
        "seeds": [0],
    }
    Path("x.yaml").write_text(yaml.safe_dump(document))
    space = load_space(sent(cluster, submitted(cluster, "sweep x.yaml")))
    assert space.columns == ("base.csv",), "the table's column is called as before"
    sources = [space.experiment(setting, "base.csv").data for setting in space.settings()]
    found = {Path(path) for data in sources for path in (data.source, data.test_source) if path != "bbc_news"}
    assert {(cluster.folder / path.relative_to("/s")).read_text().split()[1] for path in found} == {"base", "axis", "named"}
    assert space.experiment(space.settings()[0], "base.csv").output == "/s/mine"

    Path("x.yaml").write_text(yaml.safe_dump(document | {"datasets": {"News": {"source": "column.csv"}}}))
    space = load_space(sent(cluster, submitted(cluster, "sweep x.yaml")))
    assert space.columns == ("News",) and Path(space.datasets["News"]["source"]).name == "column.csv"


def test_a_generation_writes_to_the_storage(cluster):
    command = 'generate --classes "a,b" --per-class 3 --model ./gemma --out reviews --seed 4 --set augment.temperature=1.0'
    arguments = submitted(cluster, command)
    options = build_parser().parse_args(arguments)
    assert (options.out, options.classes, options.per_class, options.seed) == ("/s/reviews", "a,b", 3, 4)
    experiment = load(None, options.overrides)
    assert (experiment.augment.cache, experiment.augment.model) == ("/s/.selftrain/texts", "/s/gemma")
    assert (experiment.augment.temperature, experiment.ray.address) == (1.0, "auto")
    teachers = '[{model: ./gemma, share: 2}, {model: gpt, server: "http://s/v1"}]'
    arguments = submitted(cluster, f"generate --classes a,b --per-class 3 --out more --set 'augment.teachers={teachers}'")
    asked = load(None, build_parser().parse_args(arguments).overrides).augment
    assert [(one.model, one.server, one.share) for one in asked.teachers] == [
        ("/s/gemma", None, 2),
        ("gpt", "http://s/v1", 1),
    ] and asked.model is None


def test_a_distillation_reads_its_bundle_on_the_storage(cluster):
    Path("texts.csv").write_text("text\na\n")
    arguments = submitted(cluster, "distill runs/x/bundle --documents texts.csv --out small --layers 2,3")
    options = build_parser().parse_args(arguments)
    assert (options.bundle, options.out, options.layers) == ("/s/runs/x/bundle", "/s/small", "2,3")
    assert (cluster.folder / Path(options.documents).relative_to("/s")).read_text() == "text\na\n"
    assert "--out" not in " ".join(submitted(cluster, "distill /s/bundle"))


def test_a_prediction_of_many_files_reads_and_writes_where_the_nodes_do(cluster):
    words = submitted(cluster, "predict --bundle runs/x/bundle --file 'docs/*.parquet' --out labeled --at-once 8 --address http://head:8265")
    assert cluster.addresses == ["http://head:8265"]
    assert words == ["predict", "--at-once=8", "--bundle=/s/runs/x/bundle", "--file=/s/docs/*.parquet", "--out=/s/labeled", "--address=auto"]
    words = submitted(cluster, "predict --model mail --file s3://bucket/in --out s3://bucket/out")
    assert words == ["predict", "--model=mail", "--file=s3://bucket/in", "--out=s3://bucket/out", "--address=auto"]


def test_a_prediction_of_one_file_takes_it_along(cluster):
    Path("texts.csv").write_text("text\na\n")
    *words, file, out = submitted(cluster, "predict --bundle /s/bundle --file texts.csv --out labeled.parquet")
    assert words == ["predict", "--bundle=/s/bundle"] and out == "--out=/s/labeled.parquet"
    assert (cluster.folder / Path(file.removeprefix("--file=")).relative_to("/s")).read_text() == "text\na\n"


def test_an_audit_reads_and_writes_where_the_nodes_do(cluster):
    words = submitted(cluster, "audit models:/mail@champion --documents s3://b/mails/ --out s3://b/audit --budget 50 --tracking-uri http://m:5000")
    places = ["--documents=s3://b/mails/", "--out=s3://b/audit"]
    assert words == ["audit", "--budget=50", "--tracking-uri=http://m:5000", *places, "models:/mail@champion"]
    Path("mails.csv").write_text("text\na\n")
    Path("answers.csv").write_text("id,text,label\nq1-x,a,sport\n")
    words = submitted(cluster, "audit runs/x/bundle --documents mails.csv --text-column body --answers answers.csv --out audit")
    options = build_parser().parse_args(words)
    assert (options.bundle, options.out, options.text_column) == ("/s/runs/x/bundle", "/s/audit", "body")
    for sent_file, name in ((options.documents, "mails.csv"), (options.answers, "answers.csv")):
        assert (cluster.folder / Path(sent_file).relative_to("/s")).read_text() == Path(name).read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("predict --file folder --out labeled", "--file 'folder' is a folder of this machine, which the nodes do not have"),
        ("predict --bundle folder --file s3://b/in --out s3://b/out", "--bundle 'folder' is a folder of this machine"),
        ("predict --model mail text", "selftrain submit predict takes --file with --out"),
        ("predict --file x.csv", "selftrain submit predict takes --file with --out"),
        (
            "run --data large.csv",
            "--data 'large.csv' has 3.0 MiB, and the files that a job takes along may have 2 MiB together; put it on the storage",
        ),
        ("distill /s/bundle --documents large.csv", "--documents 'large.csv' has 3.0 MiB"),
        ("run --set model.encoder=folder", "model.encoder 'folder' is a folder of this machine, which the nodes do not have"),
        ("distill folder", "BUNDLE 'folder' is a folder of this machine"),
        ("distill /s/bundle --promote", "--promote needs to know how much a student may lose"),
        (
            "audit folder --documents s3://b/mails/",
            "BUNDLE 'folder' is a folder of this machine, which the nodes do not have; copy it to the storage",
        ),
        ("audit s3://b/bundle --documents s3://b/mails/", "BUNDLE must be a folder below the storage, or an absolute path (got 's3://b/bundle')"),
        ("audit models:/m@champion --documents large.csv", "--documents 'large.csv' has 3.0 MiB"),
        ("run --set output=ftp://a/runs", "output must be a folder, or an address that begins with s3:// or gs://"),
        ("distill s3://bucket/bundle", "BUNDLE must be a folder below the storage"),
        ("run --set method.taau=1", "Unknown option method.taau of genco; did you mean 'tau'?"),
        ("run nowhere.yaml", "No experiment file 'nowhere.yaml'"),
        ("run x.yaml --resume runs/x", "--resume continues a run as it was started"),
        ("sweep", "selftrain sweep takes either a file"),
        ("sweep wrong.yaml", "method.tau"),
        ("run --set tracking.uri=postgresql://me:word@host/db", "tracking.uri holds a password"),
        ("sweep secret.yaml", "base.tracking.uri in secret.yaml holds a password, which the job would show"),
        ("run --storage shared", "--storage must be the absolute path of a folder that all nodes share"),
    ],
)
def test_what_cannot_be_submitted_is_one_sentence_and_sends_nothing(cluster, capsys, command, said):
    with open("large.csv", "wb") as file:
        file.truncate(3 << 20)
    Path("folder").mkdir()
    space = {"name": "x", "title": "x", "base": {}, "axes": {"method.tau": [0.1, -1]}}
    Path("wrong.yaml").write_text(yaml.safe_dump(space))
    search = {"axes": {"method.tau": {"low": 0.1, "high": 1.0}}, "search": {"trials": 2}}
    Path("secret.yaml").write_text(yaml.safe_dump(space | search | {"base": {"tracking": {"uri": "postgresql://me:word@host/db"}}}))
    storage = [] if "--storage" in command else ["--storage", "/s"]
    assert main(["submit", *command.split(), *storage]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == "" and "word@" not in printed.err
    assert cluster.submitted == []


def test_a_storage_is_wanted_unless_the_cluster_is_this_machine(cluster, capsys, monkeypatch):
    assert main(["submit", "run", "--data", "bbc_news"]) == 2
    assert "--storage must be set to a folder that all nodes share, e.g. /mnt/shared (or SELFTRAIN_STORAGE)" in capsys.readouterr().err
    monkeypatch.setenv("SELFTRAIN_STORAGE", "/s")
    assert main(["submit", "run", "--data", "bbc_news"]) == 0
    assert load(sent(cluster, cluster.submitted[-1][0])).output == "/s/runs"
    monkeypatch.delenv("SELFTRAIN_STORAGE")
    cluster.alone = True
    Path("large.csv").write_bytes(b"x" * (3 << 20))
    assert main(["submit", "run", "--data", "large.csv"]) == 0
    here = Path.cwd()
    asked = load(cluster.folder / Path(cluster.submitted[-1][0][-1]).relative_to(here))
    assert (asked.output, asked.data.source) == (str(here / "runs"), str(here / "large.csv"))


def test_results_at_an_address_need_no_storage_but_a_tracking_server(cluster, capsys, monkeypatch):
    command = ["submit", "run", "--data", "bbc_news", "--set", "output=s3://bucket/runs"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("selftrain: tracking.uri must be set to a server that all nodes reach, e.g. http://mlflow:5000 (or MLFLOW_TRACKING_URI)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    Path("news.csv").write_text("text\n")
    assert main([*command, "--set", "data.source=news.csv"]) == 2
    assert "--data 'news.csv' is a path of this machine" in capsys.readouterr().err and cluster.submitted == []
    assert main(command) == 0
    (*words, file), _ = cluster.submitted[-1]
    asked = load(cluster.folder / file)
    assert words == ["run", "--address=auto"] and file.startswith(f"{KEPT}/")
    assert (asked.output, asked.augment.cache, asked.tracking.uri) == ("s3://bucket/runs", "s3://bucket/runs/.selftrain/texts", "http://mlflow:5000")
    for resumed in ("run", "sweep"):
        assert main(["submit", resumed, "--resume", "s3://bucket/runs/x"]) == 0
        assert cluster.submitted[-1][0] == [resumed, "--resume=s3://bucket/runs/x", "--address=auto"]

    space = {"name": "x", "title": "x", "base": {}, "axes": {"method.tau": [0.1, 0.2]}}
    Path("x.yaml").write_text(yaml.safe_dump(space))
    assert main(["submit", "sweep", "x.yaml", "--set", "output=s3://bucket/runs"]) == 0
    asked = load_space(cluster.folder / cluster.submitted[-1][0][-1])
    experiment = asked.experiment(asked.settings()[0], asked.columns[0])
    assert (experiment.output, experiment.tracking.uri) == ("s3://bucket/runs", "http://mlflow:5000")
    assert main(["submit", "generate", "--classes", "a,b", "--per-class", "3", "--out", "s3://bucket/out"]) == 2
    assert "--storage must be set to a folder that all nodes share" in capsys.readouterr().err


def test_no_secret_is_sent_and_it_is_said_who_must_have_it(cluster, capsys, monkeypatch):
    monkeypatch.setenv("SELFTRAIN_LANGUAGE_MODEL_KEY", KEY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret-word@host/db")
    arguments = submitted(cluster, "run --set augment.server=http://models:8000/v1 --set augment.model=gemma")
    said = capsys.readouterr()
    for name in ("SELFTRAIN_LANGUAGE_MODEL_KEY", "MLFLOW_TRACKING_URI"):
        assert f"{name} " in said.err
    assert "the nodes must have it in the environment of `ray start`" in said.err
    everything = " ".join([said.out, said.err, *arguments, *(file.read_text() for file in cluster.folder.rglob("*") if file.is_file())])
    assert KEY not in everything and "secret-word" not in everything and "MLflow      " not in said.out
    submitted(cluster, "run --data bbc_news")
    assert "SELFTRAIN_LANGUAGE_MODEL_KEY" not in capsys.readouterr().err, "no server is asked"
    monkeypatch.setenv("THEIR_KEY", KEY)
    submitted(cluster, "run --set 'augment.teachers=[{model: a}, {model: b, server: http://s/v1, key_variable: THEIR_KEY}]'")
    said = capsys.readouterr().err
    assert "THEIR_KEY is not sent" in said and "SELFTRAIN_LANGUAGE_MODEL_KEY" not in said


@pytest.mark.parametrize("command", ["run", f"sweep {ROOT / 'tune_spaces' / 'genco_tau.yaml'}"])
def test_a_tracking_server_of_this_process_is_the_jobs_and_its_link_is_printed(cluster, capsys, monkeypatch, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    document = yaml.safe_load(sent(cluster, submitted(cluster, command)).read_text())
    assert document.get("base", document)["tracking"]["uri"] == "http://mlflow:5000"
    assert "\nMLflow      http://mlflow:5000\n" in capsys.readouterr().out
    submitted(cluster, "run --set tracking.uri=http://other:5000")
    assert "\nMLflow      http://other:5000\n" in capsys.readouterr().out


def test_a_job_is_followed_to_its_exit_code(cluster, capsys):
    assert main(["submit", "run", "--storage", "/s"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "job         run-1\n[10:00:00] training ...\n" and printed.err == "selftrain: the job run-1 has succeeded.\n"
    for known, code, said in (
        (Job("run-1", "failed", "", None, None, None, 3, ""), 3, "has failed (exit code 3); `selftrain jobs resume run-1` continues it."),
        (Job("run-1", "failed", "", None, None, None, None, "no\nroom"), 2, "has failed: no room; `selftrain jobs resume run-1` continues it."),
        (Job("run-1", "stopped", "", None, None, None, 130, ""), 130, "was stopped; `selftrain jobs resume run-1` continues it."),
    ):
        cluster.known = known
        assert main(["jobs", "logs", "run-1"]) == code
        assert capsys.readouterr().err == f"selftrain: the job run-1 {said}\n"


def test_who_leaves_a_job_is_told_how_to_come_back(cluster, capsys):
    assert main(["submit", "run", "--storage", "/s", "--detach"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["follow it:  selftrain jobs logs run-1", "stop it:    selftrain jobs stop run-1"]
    cluster.follows = KeyboardInterrupt()
    assert main(["submit", "run", "--storage", "/s"]) == 130
    said = "the job run-1 goes on; `selftrain jobs logs run-1` follows it again, `selftrain jobs stop run-1` stops it."
    assert capsys.readouterr().err == f"selftrain: {said}\n"
    cluster.follows = ServiceError("The job run-1 cannot be followed any longer.")
    assert main(["jobs", "logs", "run-1"]) == 2
    assert capsys.readouterr().err == "selftrain: The job run-1 cannot be followed any longer.\n"


def test_jobs_are_listed_and_their_output_is_printed(cluster, capsys):
    assert main(["jobs", "list", "--address", "http://head:8265"]) == 0
    assert capsys.readouterr().out.split() == ["run-1", "succeeded", "selftrain", "submit", "run", "x.yaml"]
    assert cluster.addresses == ["http://head:8265"]
    assert main(["jobs", "logs", "run-1", "--no-follow"]) == 0
    assert capsys.readouterr().out == "so far\n"
    assert main(["jobs", "stop", "run-1"]) == 0
    assert capsys.readouterr().out == "run-1 has ended already: succeeded\n"


def test_a_space_of_a_job_is_valid_by_itself():
    """What is uploaded is read by the same rules as any other file."""
    for file in (ROOT / "tune_spaces").glob("*.yaml"):
        space = load_space(file)
        placed = placed_space(space.model_dump(mode="json", exclude_defaults=True), Upload(Path("/s"), here=False))
        assert placed.columns == space.columns and list(placed.axes) == list(space.axes), file.name
