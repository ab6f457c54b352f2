"""Jinja environments over the templates of our packages, for pages and for Markdown. A name without a value raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pseudoris.schemas.untrusted import visible

if TYPE_CHECKING:
    import jinja2


def page_templates(*packages: str) -> jinja2.Environment:
    """Return the templates of pages: each is taken from the first package that has it, and texts are escaped."""
    environment = _templates(packages, autoescape=True, finalize=visible)
    # A key as a person writes it.
    environment.filters |= {"thousands": "{:,}".format, "unquoted": unquote}
    return environment


def markdown_templates(package: str) -> jinja2.Environment:
    """Return the Markdown templates of a package; nothing is escaped."""
    return _templates([package], autoescape=False, keep_trailing_newline=True)


def _templates(packages: Sequence[str], **options: Any) -> jinja2.Environment:
    # Here, because a driver would wait for it at its start.
    import jinja2

    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in packages])
    options |= {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, **options)
