"""Opens the Jinja templates of pages and Markdown, for most rooms. A missing name raises; pages escape all texts."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from pseudoris.primitives.untrusted import printable, spelled, visible, without_secrets

if TYPE_CHECKING:
    import jinja2


def page_templates(*packages: str) -> jinja2.Environment:
    """Return the templates of pages: each is taken from the first package that has it, and texts are escaped."""
    environment = _templates(packages, autoescape=True, finalize=visible)
    # `unquoted` shows an image's key without its percent encoding.
    environment.filters |= {"thousands": "{:,}".format, "unquoted": unquote}
    return environment


def markdown_templates(package: str) -> jinja2.Environment:
    """Return the Markdown templates of a package; a text that could be more than words becomes code."""
    environment = _templates([package], autoescape=False, keep_trailing_newline=True, finalize=_as_words)
    environment.filters["code"] = _code
    return environment


# What makes a heading, a list, a link, an address, HTML or a cell of a text, and control characters.
_MARKUP: Final = re.compile(r"^\s*[#>+=~-]|\]\s*[\[(:]|<[A-Za-z/!?]|://|www\.|@|[`|\x00-\x1f\x7f-\x9f]")


def _as_words(value: object) -> object:
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    # What `code` made is left out; in templates no text stands between marks of code, so it cannot end them.
    return _code(value) if _MARKUP.search(re.sub("`[^`]*`", "", value)) or not value.isprintable() else value


def _code(value: object) -> str:
    """Return a text as code for a table cell, without secrets, markup and control characters."""
    letters = without_secrets(str(value))
    plain = "".join(spelled(each) if unicodedata.category(each)[0] == "C" else each for each in letters)
    return "`" + plain.replace("`", "'").replace("|", "¦") + "`"


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
