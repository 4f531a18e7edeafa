"""The pages of the endpoint: one to try the models, one to label documents, one that lists the routes. None loads anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse, Response

_FOLDER = Path(__file__).parent


class Page:
    """A page and its headers.

    Args:
        text: the HTML.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._headers = headers_of(text)

    @classmethod
    def of_texts(cls, *, labelling: bool = False) -> Page:
        """The page that classifies texts and files; where there is `labelling`, with a link to the page that asks about documents."""
        link = '<a href="/label">Label documents</a> · ' if labelling else ""
        return cls._of("page.html", ["page.css"], ["page_ask.js", "page.js", "page_csv.js"], label_link=link)

    @classmethod
    def of_questions(cls) -> Page:
        """The page that asks about documents."""
        return cls._of("label.html", ["page.css", "label.css"], ["page_ask.js", "label_train.js", "label.js"])

    @classmethod
    def _of(cls, html: str, styles: Sequence[str], scripts: Sequence[str], **parts: str) -> Page:
        # In one file: the browser asks once, and the policy names the parts by their hashes.
        style, script = ("".join((_FOLDER / name).read_text(encoding="utf-8") for name in names) for names in (styles, scripts))
        text = (_FOLDER / html).read_text(encoding="utf-8")
        for name, part in {**parts, "style": style, "script": script}.items():
            text = text.replace(f"{{{name}}}", part, 1)
        return cls(text)

    @classmethod
    def of_routes(cls, schema: Mapping[str, Any]) -> Page:
        """The page that lists the routes of an OpenAPI document."""
        return cls(describe_schema(schema))

    async def show(self) -> Response:
        """The answer to GET."""
        return HTMLResponse(self._text, headers=self._headers)


def headers_of(page: str) -> dict[str, str]:
    """The headers of a page: only its own script runs, named by its hash; it may ask its own server alone, and no page may frame it."""

    def own(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
        return " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"

    policy = {
        "default-src": "'none'",
        "script-src": own("script"),
        "style-src": own("style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
    }


def describe_schema(schema: Mapping[str, Any]) -> str:
    """The HTML of a page that lists the routes of an OpenAPI document; FastAPI's own page would load scripts from elsewhere."""
    parts = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            answers = "".join(
                f"<tr><td>{html.escape(status)}</td><td>{html.escape(answer['description'])}</td></tr>"
                for status, answer in operation["responses"].items()
            )
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
            fields = "".join(
                f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(field.get('description', ''))}</td></tr>"
                for name, field in schema["components"]["schemas"].get(body.rpartition("/")[2], {}).get("properties", {}).items()
            )
            takes = f"<h3>Body (JSON)</h3><table>{fields}</table>" if fields else ""
            title = f"{method.upper()} {html.escape(path)}"
            text = html.escape(operation.get("description", ""))
            parts.append(f"<section><h2>{title}</h2><p>{text}</p>{takes}<h3>Answers</h3><table>{answers}</table></section>")
    style = (
        ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.1rem 1rem .1rem 0;vertical-align:top}h3{margin-bottom:.2rem;font-size:1rem}"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>selftrain: routes</title><style>{style}</style></head><body><h1>selftrain</h1>"
        f'<p><a href="/">The page to try it</a> · <a href="/openapi.json">OpenAPI document</a></p>{"".join(parts)}</body></html>'
    )
