"""Templates, styles and scripts as whole pages: their content is escaped, and a policy restricts what may run.

Captions, keys and messages come from models and from untrusted files. They are escaped, and control characters and
signs of direction in them are spelled, in attributes too. Should an escape ever fail, the
content security policy allows only the page's own scripts and styles, by digest, and no script can turn text into
markup (trusted types).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from urllib.parse import unquote

import jinja2
from markupsafe import Markup

from pseudoris.schemas.printable import visible
from pseudoris.viewer.image_cards import mask_colours

GENERATOR: Final = "pseudoris"
# Its templates are every page's base.
ROOM: Final = "pseudoris.viewer"
_STREAM_PIECES: Final = 64
# Concatenated in this order into one script; each is a part of one function's body.
GALLERY_SCRIPTS: Final = (
    *("model", "rules", "sorting", "pair_marks", "filters", "elements", "peek", "cards", "inspector", "keyboard"),
    *("address", "main"),
)


def iter_page(
    template: str,
    content: Mapping[str, Any],
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    room: str = ROOM,
    pictures: str = "'self'",
) -> Iterator[str]:
    """Yield a page's text piece by piece.

    Args:
        template: Its name among the templates.
        content: What the template shows; text in it is escaped.
        styles: Names of stylesheets, joined.
        scripts: Names of the parts of the page's script, joined; the script of the theme comes on its own, first.
        room: Package whose `templates` are looked in before the viewer's.
        pictures: Where pictures may come from: beside the page, or, of a page in one file, `data:`.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in dict.fromkeys((room, ROOM))]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    # A key as a person writes it.
    environment.filters["unquoted"] = unquote
    style = "".join(_resource(f"{name}.css", room) for name in styles) + _colour_classes()
    theme = _resource("theme.js", room)
    script = _joined(scripts, room)
    page = {
        "generator": GENERATOR,
        # Our own files, not data: they hold no character that HTML would read in a style or script element.
        "style": Markup(style),
        "theme": Markup(theme),
        "script": Markup(script),
        "policy": _policy(style=style, scripts=[theme, script], pictures=pictures),
    }
    stream = environment.get_template(template).stream({**content, **page})
    stream.enable_buffering(_STREAM_PIECES)
    yield from stream


def _policy(*, style: str, scripts: Sequence[str], pictures: str) -> str:
    digests = " ".join(_digest(script) for script in scripts if script)
    return "; ".join(
        [
            "default-src 'none'",
            f"img-src {pictures}",
            f"style-src {_digest(style)}",
            f"script-src {digests}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _joined(names: Sequence[str], room: str) -> str:
    if not names:
        return ""
    body = "\n".join(_resource(f"{name}.js", room) for name in names)
    return f'"use strict";\n(() => {{\n{body}}})();\n'


def _colour_classes() -> str:
    # As classes: the policy allows no style attribute.
    return "".join(f".c{number} {{ --c: {colour}; }}\n" for number, colour in enumerate(mask_colours()))


def _resource(name: str, room: str) -> str:
    own = files(room).joinpath("templates", name)
    template = own if own.is_file() else files(ROOM).joinpath("templates", name)
    return template.read_text(encoding="utf-8")
