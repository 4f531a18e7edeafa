"""What the site takes from the code at build time: method cards, the configuration, the commands, and the reference; nothing of it is written twice.

MkDocs calls `on_files` once and `on_page_markdown` for every page. A method's page holds `<!-- facts -->` and `<!-- options -->` where its card belongs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {
    "zero_shot": "No labels",
    "few_labels": "Few labels",
    "soft_labels": "Labels, made soft",
    "noisy_labels": "Labels that may be wrong",
    "candidate_labels": "Candidate sets",
}
# Module -> what the reference shows of it; every other public name is reached through these.
REFERENCE = {
    "selftrain": "The names that `from selftrain import ...` gives.",
    "selftrain.errors": "Every error that a caller may catch.",
    "selftrain.methods.base": "The contract of a method.",
    "selftrain.methods.losses": "The equations of the papers.",
    "selftrain.data.corpus": "Documents, classes and splits.",
    "selftrain.data.texts": "The text channel: what a method asks of a language model.",
    "selftrain.training.loop": "The training loop.",
    "selftrain.bundle.classifier": "A bundle, opened.",
    "selftrain.client": "The client of an endpoint.",
    "selftrain.evaluation.metrics": "Accuracy, F1 and the rest.",
    "selftrain.evaluation.calibration": "ECE and reliability.",
    "selftrain.evaluation.significance": "Is a difference more than noise?",
    "selftrain.evaluation.naming.figures": "What can be said of class names without a label.",
    "selftrain.evaluation.naming.answers": "What ten answers say of class names.",
    "selftrain.evaluation.audit.design": "Which documents an audit asks about.",
    "selftrain.evaluation.audit.figures": "What the answers of an audit say.",
    "selftrain.evaluation.audit.risk": "A threshold with a promise, from an audit.",
    "selftrain.evaluation.audit.sets": "Prediction sets with a promise, from an audit.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated."""
    pages = {
        "methods/index.md": methods_page(),
        "reference/config.md": config_page(),
        "reference/cli.md": commands_page(),
        "reference/python.md": reference_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "]("),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the card of a method's page."""
    folder, _, name = page.file.src_uri.rpartition("/")
    name = name.removesuffix(".md")
    if folder != "methods" or name == "index":
        return markdown
    return markdown.replace("<!-- facts -->", facts(name)).replace("<!-- options -->", options(name))


def classes() -> dict[str, Any]:
    """Method name -> its class, in the order of the registry."""
    from selftrain.methods import METHODS, method_class

    return {name: method_class(name) for name in METHODS}


def facts(name: str) -> str:
    """What the code knows of a method, as a table: supervision, documents, language model, paper, source."""
    method = classes()[name]
    source = Path(inspect.getfile(method)).resolve().relative_to(ROOT)
    granted = {"none": "none", "labels": "`few`, `all` or `weak`", "candidates": "`candidates`"}
    rows = {
        "What it does": _sentence(method.summary),
        "`data.supervision`": granted.get(str(method.supervision), f"`{method.supervision}`"),
        "Documents": " and ".join(f"{kind}s" for kind in method.kinds),
        "From the language model": method.language_model,
        "Trains": "`model.masked_lm`" if method.masked_lm else "`model.encoder`",
        "Paper": _linked(method.paper),
        "Code": f"`{source}` (`{method.__name__}`)",
        "Options on the command line": f"`selftrain methods {name}`",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())])


def options(name: str) -> str:
    """The options of a method with type, default, range and meaning."""
    return _table("method", classes()[name].Options.model_fields, skip=("name",))


def methods_page() -> str:
    """All methods by the supervision that they need."""
    lines = ["# Methods", "", "A card a method: what it needs, when to use it, its equations and where they are in the code, options, results.", ""]
    lines += [
        "Which one? No labels: `genco`. About ten labels a class: `ssc` or `mixmatch` on a head. Labels that are wrong in part: `sungen`, or a low"
    ]
    lines += ["learning rate with `cross_entropy`. A set of possible labels for each document: `cc`. The results pages say what this rests on.", ""]
    for family, title in FAMILIES.items():
        lines += [f"## {title}", "", "| method | what it does |", "| --- | --- |"]
        lines += [
            f"| [`{name}`]({name}.md) | {_sentence(method.summary)} |" for name, method in classes().items() if f".{family}." in method.__module__
        ]
        lines += [""]
    return "\n".join(lines)


def config_page() -> str:
    """Every key of an experiment."""
    from selftrain.config import Experiment

    lines = [
        "# Configuration",
        "",
        "One typed document describes an experiment. Every key below can stand in the YAML file or in `--set key=value`;",
        "an unknown key is an error that",
    ]
    lines += ["names the nearest known one. `selftrain run EXPERIMENT.yaml --dry-run` prints the resolved document.", ""]
    lines += ["The keys of `method` depend on its `name`: see the [method cards](../methods/index.md).", ""]
    sections = {key: field for key, field in Experiment.model_fields.items() if _section(field) is not None}
    lines += ["## Top level", "", _table("", {key: field for key, field in Experiment.model_fields.items() if key not in sections}), ""]
    for key, field in sections.items():
        section = _section(field)
        assert section is not None
        lines += [f"## {key}", "", inspect.cleandoc(section.__doc__ or ""), "", _table(key, section.model_fields), ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Every command and option, from the parser itself."""
    lines = ["# Commands", ""]
    for name, parser in commands():
        lines += [f"## selftrain {name}", "", parser.description or "", "", "| argument | what it is |", "| --- | --- |"]
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                continue
            shown = ", ".join(action.option_strings) or action.dest
            wanted = f" {action.metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
            lines += [f"| `{shown}{wanted}` | {_cell(str(action.help or ''))} |"]
        lines += [""]
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Name and parser of every command, nested ones too."""

    def below(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, child in action.choices.items():
                    yield f"{path}{name}", child
                    yield from below(child, f"{path}{name} ")

    yield from below(command_line(), "")


def command_line() -> argparse.ArgumentParser:
    """The parser of `selftrain`, wherever the command line keeps it."""
    for module in ("selftrain.cli", "selftrain.cli.main", "selftrain.cli.parser"):
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        for name in ("_parser", "parser", "make_parser", "build_parser"):
            made = getattr(found, name, None)
            if callable(made):
                return typing.cast(argparse.ArgumentParser, made())
    raise LookupError("the command line's parser was not found; docs/hooks.py says where it is looked for")


def reference_page() -> str:
    """The modules that a caller or an author of a method uses, from their docstrings."""
    lines = ["# Python reference", "", "From the docstrings. `from selftrain import ...` gives the names of the first section.", ""]
    for module, text in REFERENCE.items():
        lines += [f"## {module}", "", text, ""]
        if module == "selftrain":
            import selftrain

            for place in selftrain._PLACES.values():
                lines.append(f"::: selftrain.{place.replace(':', '.')}\n    options:\n      heading_level: 3\n")
        else:
            lines += [f"::: {module}\n    options:\n      heading_level: 3\n      show_root_heading: false\n      show_root_toc_entry: false\n"]
    return "\n".join(lines)


def _table(prefix: str, fields: dict[str, FieldInfo], skip: tuple[str, ...] = ()) -> str:
    lines = ["| key | type | default | what it is |", "| --- | --- | --- | --- |"]
    for key, field in fields.items():
        if key in skip:
            continue
        name = f"{prefix}.{key}" if prefix else key
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
        kind = " ".join(filter(None, [f"`{_kind(field.annotation)}`", _range(field)]))
        lines += [f"| `{name}` | {_cell(kind)} | {_cell(default)} | {_cell(field.description or '')} |"]
    return "\n".join(lines)


def _kind(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(parts[0])
    if origin is typing.Literal:
        return " or ".join(str(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(part) for part in parts)
    if parts:
        inner = ", ".join("..." if part is ... else _kind(part) for part in parts)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return "None" if annotation is type(None) else str(getattr(annotation, "__name__", annotation))


def _range(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{sign} {getattr(part, name):g}" for part in field.metadata for name, sign in signs.items() if hasattr(part, name))


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _sentence(text: str) -> str:
    return _cell(text[0].upper() + text[1:] + ("" if text.endswith(".") else "."))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _linked(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", _cell(paper))
