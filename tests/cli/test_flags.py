"""The library names parameters, the command line its flags; and every help ends with commands that parse."""

from __future__ import annotations

import argparse
import shlex

import pytest

from selftrain.cli import main
from selftrain.cli.common import flag_of, in_flags, load_experiment
from selftrain.cli.main import build_parser
from selftrain.errors import ConfigError


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


COMMANDS = commands()


def parsed(command: str) -> argparse.Namespace:
    return build_parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_one_or_two_examples_that_parse(name: str, capsys) -> None:
    examples = COMMANDS[name].get_default("examples")
    assert 1 <= len(examples) <= 2
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "selftrain" and words[0] == name
        assert build_parser().parse_args(words).command is COMMANDS[name].get_default("command")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert capsys.readouterr().out.rstrip().endswith(examples[-1])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_that_a_command_states_belongs_to_an_option_of_its_own(name: str) -> None:
    # DATA_KEYS is shared: of its options a command has those of an experiment, and --address and --promote only where they are its own.
    shared = {"address", "promote"}
    assert set(COMMANDS[name].get_default("sets")) - shared <= set(COMMANDS[name].flags())


@pytest.mark.parametrize(
    ("command", "parameter", "flag"),
    [
        ("run --data x", "data.source", "--data"),
        ("run", "data.source", "--data"),
        ("run x.yaml", "data.source", None),  # the file has it
        ("run x.yaml --data y", "data.source", "--data"),
        ("run --set data.source=x", "data.source", None),
        ("run --classes a,", "data.classes.1", "--classes"),
        ("run", "data.classes_of_another_kind", None),
        ("run", "overrides", "--set"),
        ("run", "augment.model", None),
        ("run --address auto", "ray.address", "--address"),
        ("doctor", "ray.address", None),
        ("sweep x.yaml --address auto", "ray.address", "--address"),
        ("sweep --resume x", "folder", "--resume"),
        ("generate --per-class 0 --out x", "per_class", "--per-class"),
        ("generate --per-class 0 --out x", "augment.model", "--model"),
        ("generate --per-class 0 --out x", "named", "--data"),
        ("predict --file x.csv --out y.csv", "source", "--file"),
        ("predict --file x.csv --out y.csv", "text_column", "--text-column"),
        ("export bundle", "max_accuracy_loss", "--max-accuracy-loss"),
        ("export bundle", "folder", "BUNDLE_OR_MODEL"),
        ("serve", "max_waiting_texts", "--max-waiting"),
        ("register bundle", "name", "--model"),
        ("audit bundle --documents x.csv", "data.source", "--documents"),
        ("audit bundle --documents x.csv", "data.text_column", "--text-column"),
        ("audit bundle --documents x.csv", "budget", "--budget"),
    ],
)
def test_a_parameter_has_its_flag(command: str, parameter: str, flag: str | None) -> None:
    assert flag_of(parsed(command), parameter) == flag


@pytest.mark.parametrize(
    ("said", "parameter", "shown"),
    [
        ("per_class must be at least 1 (got 0).", "per_class", "--per-class must be at least 1 (got 0)."),
        ("per_class must be set, and per_class too.", "per_class", "--per-class must be set, and --per-class too."),
        ("per_class_of_old is not known.", "per_class", "per_class_of_old is not known."),
        ("per_class.x is not known.", "per_class", "per_class.x is not known."),
        ("template is wrong, a template of out.", "template", "--template is wrong, a template of out."),
        ("The value of per_class is wrong.", "per_class", "The value of --per-class is wrong."),
        ("Nothing is known of 'per_class', my/per_class, per_class/x.", "per_class", "Nothing is known of 'per_class', my/per_class, per_class/x."),
        ("No model; set augment.model, or go out.", "augment.model", "No model; set --model, or go out."),
        ("out is taken; set data.classes or augment.cache.", "out", "--out is taken; set --classes or augment.cache."),
        ("per_class must be set.", None, "per_class must be set."),
        ("seeds must differ.", "seeds", "seeds must differ."),
        (r"out 'a\1b' is a link.", "out", r"--out 'a\1b' is a link."),
    ],
)
def test_an_error_begins_with_the_flag(said: str, parameter: str | None, shown: str) -> None:
    assert in_flags(ConfigError(said, parameter=parameter), parsed("generate --per-class 0 --out x")) == shown


def test_an_error_before_a_command_is_known_stays_as_it_is() -> None:
    assert in_flags(ConfigError("out is wrong.", parameter="out"), argparse.Namespace()) == "out is wrong."


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["run", "--set", "method.tau"], "--set: 'method.tau' is not of the form"),
        (["run", "--promote", "--data", "x", "--text-column", "y", "--set", "model.scale=-1"], "model.scale in the options: "),
        (["leaderboard", "--html", "."], "--html "),
        (["generate", "--per-class", "1", "--out", __file__, "--classes", "a,b"], "--out "),
        (["generate", "--per-class", "1", "--out", "new", "--classes", "{a: [b"], "--classes must be names separated by commas, or a tree such as {"),
        (
            ["run", "--data", "x.csv", "--classes", "{sport: [], work: [law]}"],
            "--classes in the options: classes in the group 'sport' must be at least",
        ),
    ],
)
def test_the_command_speaks_of_its_flags(arguments: list[str], begins: str, capsys) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"selftrain: {begins}")


def test_the_flag_of_classes_takes_a_tree_in_place_of_that_of_the_file(tmp_path) -> None:
    (tmp_path / "x.yaml").write_text("data: {classes: {sport: [chess], work: [law]}}")
    asked = load_experiment(parsed(f"run {tmp_path}/x.yaml --classes ' {{free time: [chess, golf], work: {{office: [law]}}}}'"))
    assert asked.data.class_paths == (("free time", "chess"), ("free time", "golf"), ("work", "office", "law"))
    assert load_experiment(parsed("run --classes 'chess, golf'")).data.classes == ("chess", "golf")


def test_a_stopped_command_says_how_it_continues(monkeypatch, capsys) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selftrain.sweeps.space.load_space", stop)
    monkeypatch.setattr("selftrain.methods.method_class", stop)
    assert main(["sweep", "x.yaml"]) == 130
    assert capsys.readouterr().err == "selftrain: stopped; `selftrain sweep --resume FOLDER` continues the sweep.\n"
    assert main(["methods", "genco"]) == 130
    assert capsys.readouterr().err == "selftrain: stopped.\n"


def test_a_flag_with_a_password_is_named(capsys) -> None:
    assert main(["predict", "--bundle", "http://me:secret@host/x", "a"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("selftrain: --bundle holds a password") and "secret" not in said
