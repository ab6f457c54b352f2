"""Opens the Jinja templates of pages and Markdown, for most rooms. A missing name raises; pages escape all texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pseudoris.primitives.untrusted import printable, visible

if TYPE_CHECKING:
    import jinja2


def page_templates(*packages: str) -> jinja2.Environment:
    """Return the templates of pages: each is taken from the first package that has it, and texts are escaped."""
    environment = _templates(packages, autoescape=True, finalize=visible)
    # `unquoted` shows an image's key without its percent encoding.
    environment.filters |= {"thousands": "{:,}".format, "unquoted": unquote}
    return environment


def markdown_templates(package: str) -> jinja2.Environment:
    """Return the Markdown templates of a package; nothing is escaped."""
    return _templates([package], autoescape=False, keep_trailing_newline=True)


def _templates(packages: Sequence[str], **options: Any) -> jinja2.Environment:
    # jinja2 is imported here, because it would slow down the start of a driver.
    import jinja2

    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in packages])
    options |= {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, **options)


def notebook_display() -> Callable[..., Any] | None:
    """Return IPython's `display` if this process is a notebook's kernel, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return ipython.display.display if ipython is not None and hasattr(shell, "kernel") else None


def html_text(value: object) -> str:
    """Return text for a page: escaped, its control characters spelled."""
    return escape(printable(str(value)))
