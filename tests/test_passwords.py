"""No password inside an address gets into what is written down or shown; tokens and keys come from a file or the environment."""

from __future__ import annotations

import json

import pytest
from selftrain_serve.app import run as serve

from selftrain.cli import main
from selftrain.config import AugmentConfig, load, parse
from selftrain.errors import SelfTrainError
from selftrain.passwords import KEY_VARIABLE, TOKEN_VARIABLE, Secret, has_password, read_key, read_secret, read_token, without_passwords
from selftrain.serving.models import ModelSource
from selftrain.texts.engines.vllm import engine_environment
from selftrain.tracking import check_tracking, tracking_uri
from selftrain.tracking.ui import ui_command

SECRET = "hunter2"
ADDRESS = f"postgresql://me:{SECRET}@db.example/runs"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (ADDRESS, "postgresql://me:***@db.example/runs"),
        (f"postgresql+psycopg2://me:p@{SECRET}@db.example/runs", "postgresql+psycopg2://me:***@db.example/runs"),
        (f"https://:{SECRET}@mlflow.example", "https://:***@mlflow.example"),
        (f"cannot reach {ADDRESS} at all", "cannot reach postgresql://me:***@db.example/runs at all"),
        (f"postgresql://db/runs?user=me&password={SECRET}&sslmode=require", "postgresql://db/runs?user=me&password=***&sslmode=require"),
        (f"https://mlflow.example/?TOKEN={SECRET}", "https://mlflow.example/?TOKEN=***"),
    ],
)
def test_a_password_is_shown_as_stars(text, shown) -> None:
    assert without_passwords(text) == shown and has_password(text)


@pytest.mark.parametrize(
    "text", ["sqlite:///mlflow.db", "http://127.0.0.1:5000", "postgresql://me@db/runs", "a: b@c", "mail@example.org", "http://[::1]:80/a@b"]
)
def test_what_holds_no_password_stays_as_it_is(text) -> None:
    assert without_passwords(text) == text and not has_password(text)


def test_a_configuration_takes_none(tmp_path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(f"tracking:\n  uri: {ADDRESS}\n")
    for ask in (
        lambda: parse({"tracking": {"uri": ADDRESS}}),
        lambda: load(str(file), [], {}),
        lambda: load(None, [f"tracking.uri={ADDRESS}"], {}),
        lambda: load(None, [f"training.storage=https://key:{SECRET}@store.example/a"], {}),
    ):
        with pytest.raises(SelfTrainError, match=r"(tracking\.uri|training\.storage) holds a password") as error:
            ask()
        assert SECRET not in str(error.value)


def test_a_command_line_takes_none(capsys) -> None:
    for arguments in (["ui"], ["serve"], ["predict", "a"], ["leaderboard"], ["register", "a"], ["export", "a"]):
        assert main([*arguments, "--tracking-uri", ADDRESS]) == 2
        said = capsys.readouterr().err
        assert "--tracking-uri holds a password" in said and SECRET not in said
    assert main(["run", "--set", f"tracking.uri={ADDRESS}"]) == 2
    assert SECRET not in capsys.readouterr().err


def test_serves_configuration_holds_none(monkeypatch) -> None:
    monkeypatch.setattr("selftrain_serve.app.ray.init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(SelfTrainError, match="set the environment variable MLFLOW_TRACKING_URI") as error:
        serve([ModelSource(model="mail")], tracking_uri=ADDRESS)
    assert SECRET not in str(error.value)
    given = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    monkeypatch.setattr("selftrain_serve.app.Arguments.checked", lambda arguments: given.append(arguments) or pytest.skip.Exception())
    with pytest.raises(AttributeError):
        serve([ModelSource(model="mail")])
    assert given[0]["tracking_uri"] is None and SECRET not in json.dumps(given)


def test_messages_of_the_tracking_hold_none(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"ftp://me:{SECRET}@host")
    with pytest.raises(SelfTrainError) as error:
        tracking_uri()
    assert SECRET not in str(error.value)
    with pytest.raises(SelfTrainError) as error:
        check_tracking(f"http://me:{SECRET}@127.0.0.1:1")
    assert SECRET not in str(error.value)


def test_the_pages_command_line_holds_none() -> None:
    command, environment = ui_command(ADDRESS)
    assert SECRET not in " ".join(command) and environment["MLFLOW_BACKEND_STORE_URI"] == ADDRESS


def test_a_token_of_a_hub_is_no_part_of_rays_runtime_environment(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert SECRET not in json.dumps(engine_environment(AugmentConfig(gpus=0)))


def test_a_secret_is_from_the_file_or_else_from_the_variable(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("A_SECRET", raising=False)
    assert read_secret(None, "A_SECRET", "key_file") is None
    monkeypatch.setenv("A_SECRET", " of the variable\n")
    assert read_secret(None, "A_SECRET", "key_file") == Secret("The variable A_SECRET", "of the variable")
    file = tmp_path / "key"
    file.write_text("\tof the file – é \n", encoding="utf-8")
    assert read_secret(file, "A_SECRET", "key_file") == Secret(f"key_file: the key file {file}", "of the file – é")
    with pytest.raises(SelfTrainError, match=r"^key_file: the key file .*none cannot be read \(No such file or directory\); set another file\.$"):
        read_secret(tmp_path / "none", "A_SECRET", "key_file")
    file.write_bytes(b"\xff")
    with pytest.raises(SelfTrainError, match=r"\(it is not UTF-8\)"):
        read_secret(str(file), "A_SECRET", "key_file")


@pytest.mark.parametrize(("text", "printable"), [("abc", True), ("", False), ("a b", False), ("é", False), ("a\tb", False), ("~!", True)])
def test_what_a_header_can_carry(text, printable) -> None:
    assert Secret("it", text).printable is printable


def test_a_token_has_sixteen_printable_characters(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert TOKEN_VARIABLE == "SELFTRAIN_SERVE_TOKEN" and read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "fedcba9876543210")
    assert read_token(None) == b"fedcba9876543210"
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    assert read_token(file) == b"0123456789abcdef"
    for wrong in ("0123456789abcde", "0123456789 abcdef", "", "ä" * 20):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(
            SelfTrainError, match=r"^token_file: the token file .*token is not a token: it must be at least 16 printable ASCII characters"
        ):
            read_token(file)
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(SelfTrainError, match=r"^The variable SELFTRAIN_SERVE_TOKEN is not a token"):
        read_token(None)
    with pytest.raises(SelfTrainError, match=r"set another file"):
        read_token(tmp_path / "none")


def test_a_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key() is None
    assert KEY_VARIABLE == "SELFTRAIN_LANGUAGE_MODEL_KEY"
    monkeypatch.setenv(KEY_VARIABLE, "")
    assert read_key() is None
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    assert read_key() == SECRET
    monkeypatch.setenv(KEY_VARIABLE, "two words")
    with pytest.raises(SelfTrainError, match=f"The variable {KEY_VARIABLE} holds no key"):
        read_key()
    file = tmp_path / "key"
    file.write_text("another\n")
    assert read_key(str(file)) == "another"
    for wrong in ("", "two words", "nön-ascii"):
        file.write_text(wrong)
        with pytest.raises(SelfTrainError, match="holds no key"):
            read_key(str(file))
    with pytest.raises(SelfTrainError, match="language_model_key_file"):
        read_key(str(tmp_path / "none"))
