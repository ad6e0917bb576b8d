"""Offline HTML pages: one file without scripts that loads nothing; its pictures are ``data:`` URIs."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


def render(folder: Path, template: str, **facts: Any) -> str:
    """Text of a page. Everything that does not come from a template is escaped.

    Args:
        folder: of the page's own template, which extends ``base.html.j2`` of this package.
        template: its name.
        facts: variables of the template; one that is missing raises jinja2.UndefinedError.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template(template).render(style=Markup(style), style_hash=digest, **facts)


def data_uri(content: bytes, kind: str) -> str:
    """``data:`` URI of a file's bytes."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
