"""What nodes find a language model by: never the path that it has on the driver's disk alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_language_model

from selftrain.config import AugmentConfig
from selftrain.errors import ConfigError
from selftrain.models import locate
from selftrain.models.locate import contents_fingerprint, fingerprint, folder_on_node, language_model_of, name_on_nodes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, and two nodes' caches of it; returns what was asked for, and says which node this is."""
    asked = []

    def snapshot_download(name, revision=None, **_):
        asked.append((name, revision))
        if name != "owner/model":
            raise OSError("no such model")
        folder = tmp_path / asked_node[0] / "models--owner--model" / "snapshots" / COMMIT
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        return str(folder)

    asked_node = ["driver"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked, asked_node


def test_a_model_of_the_hub_is_found_by_each_node_in_the_same_revision(hub, tmp_path):
    asked, node = hub
    config = AugmentConfig(model="owner/model")
    model = language_model_of(config)
    key = fingerprint(model)
    assert isinstance(model, Path) and len(key) == 16  # what cached texts are known by is of its weights, as ever
    name = name_on_nodes(config, model, alone=False)
    assert name == f"owner/model@{COMMIT}" and str(tmp_path) not in name
    node[0] = "another node"
    found = folder_on_node(name)
    assert found.startswith(str(tmp_path / "another node")) and fingerprint(Path(found)) == key
    assert asked == [("owner/model", None), ("owner/model", COMMIT)]


def test_a_machine_of_its_own_opens_what_was_found(hub):
    asked, _ = hub
    config = AugmentConfig(model="owner/model")
    model = language_model_of(config)
    name = name_on_nodes(config, model, alone=True)
    assert name == folder_on_node(name) == str(model) and len(asked) == 1  # the hub is not asked again


def test_a_folder_is_the_same_on_all_nodes(tmp_path, monkeypatch):
    (tmp_path / "a@b").mkdir()
    (tmp_path / "a@b" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for given in ("./a@b", "a@b", str(tmp_path / "a@b")):
        config = AugmentConfig(model=given)
        name = name_on_nodes(config, language_model_of(config), alone=False)
        assert name == str(tmp_path / "a@b") == folder_on_node(name)


def test_a_model_of_packages_is_assembled_where_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFTRAIN_HOME", str(tmp_path / "driver"))
    (tmp_path / "driver" / "models" / "gemma-3-270m").mkdir(parents=True)
    config = AugmentConfig(model="gemma-3-270m")
    name = name_on_nodes(config, language_model_of(config), alone=False)
    assert name == "gemma-3-270m"
    monkeypatch.setattr(locate, "_assemble_gemma", lambda: tmp_path / "node" / "gemma")
    assert folder_on_node(name) == str(tmp_path / "node" / "gemma")


def test_names_that_are_no_folders_stay(tmp_path):
    served = AugmentConfig(model="writer", server="http://127.0.0.1:1/v1")
    assert name_on_nodes(served, language_model_of(served), alone=False) == "served:writer"
    assert name_on_nodes(AugmentConfig(), tmp_path, alone=False) == str(tmp_path)  # whoever opens a channel with a folder and no name


def test_a_node_that_cannot_fetch_it_says_so(hub):
    with pytest.raises(ConfigError, match=r"augment\.model: 'owner/gone' is not a folder and cannot be fetched from the hub"):
        folder_on_node(f"owner/gone@{COMMIT}")


@pytest.mark.parametrize("part", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json"])
def test_a_language_model_with_another_tokenizer_or_template_is_another_one(tmp_path, part):
    model = tiny_language_model(tmp_path / "model")
    before, weights = contents_fingerprint(model), fingerprint(model)
    (model / "README.md").write_text("about it")
    assert contents_fingerprint(model) == before
    with (model / part).open("a") as file:
        file.write(" ")
    assert contents_fingerprint(model) != before and fingerprint(model) == weights
