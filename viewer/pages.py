"""Builds any page from templates, styles and scripts. Called by this room, `audit/judging_page` and examples.

Captions, keys and messages come from models and from untrusted files. They are escaped, and control characters and
signs of direction in them are spelled, in attributes too. If an escape ever fails, the content security policy allows
only the page's own scripts and styles, by digest, and no script can turn text into markup (trusted types).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import Any, Final

from markupsafe import Markup

from pseudoris.images.pixels import loaded_plugins
from pseudoris.images.prover import PictureForm, Prover
from pseudoris.primitives.errors import ImageError
from pseudoris.primitives.templates import page_templates
from pseudoris.primitives.untrusted import visible
from pseudoris.schemas.stage_settings import ImagesConfig

GENERATOR: Final = "pseudoris"
# The templates of this room are the base of every page.
ROOM: Final = "pseudoris.viewer"
_TEMPLATES: Final = cache(page_templates)
_STREAM_PIECES: Final = 64
# The hues are degrees of OKLCH. Neighbours in the list differ strongly.
_HUES: Final = (28, 250, 142, 85, 320, 200, 55, 285, 115, 0, 225, 170)
_LIGHTNESSES: Final = (0.74, 0.62, 0.86)
# The masks of a picture get these CSS colours in this order. The first colour comes again after the last one.
MASK_COLOURS: Final = tuple(f"oklch({light} 0.17 {hue})" for light in _LIGHTNESSES for hue in _HUES)


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

    The template shows `content`, and escapes its texts. `styles` and `scripts` are names of parts that are joined; the
    script of the theme comes first, on its own. The templates of the package `room` come before the viewer's.
    `pictures` come from beside the page, or from `data:` in a page of one file.
    """
    # Colours are CSS classes, because the page's policy allows no style attribute.
    colours = (f".c{number} {{ --c: {colour}; }}\n" for number, colour in enumerate(MASK_COLOURS))
    style = "".join([*(_resource(f"{name}.css", room) for name in styles), *colours])
    theme = _resource("theme.js", room)
    body = "\n".join(_resource(f"{name}.js", room) for name in scripts)
    script = f'"use strict";\n(() => {{\n{body}}})();\n' if scripts else ""
    policy = [
        "default-src 'none'",
        f"img-src {pictures}",
        f"style-src {_digest(style)}",
        f"script-src {' '.join(_digest(each) for each in (theme, script) if each)}",
        *("base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"),
    ]
    page = {
        "generator": GENERATOR,
        # These texts are our own files and not data, so they need no escape.
        "style": Markup(style),
        "theme": Markup(theme),
        "script": Markup(script),
        "policy": "; ".join(policy),
    }
    stream = _TEMPLATES(room, ROOM).get_template(template).stream({**content, **page})
    stream.enable_buffering(_STREAM_PIECES)
    yield from stream


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _resource(name: str, room: str) -> str:
    own = files(room).joinpath("templates", name)
    template = own if own.is_file() else files(ROOM).joinpath("templates", name)
    return template.read_text(encoding="utf-8")


def embedded_json(value: object) -> Markup:
    """Return JSON for a script element: without `<`, so that no untrusted text can end the element.

    Source: HTML, "Restrictions for contents of script elements".
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if not text.isprintable() or "\\" in text:
        # The page's script shows these texts unchanged, so invisible characters are made visible here.
        text = json.dumps(_visible(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _visible(value: object) -> object:
    if isinstance(value, dict):
        return {key: _visible(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(each) for each in value]
    return visible(value)


@contextmanager
def run_pictures(form: PictureForm) -> Iterator[Callable[[bytes, ImagesConfig], bytes | None]]:
    """Give a function that makes small pictures of images by the settings of their runs; None if one cannot be read.

    Then a plug-in is missing, which the user imports, or the run was changed. Images and settings may be a stranger's:
    a child process decodes, within default limits. One lives at a time: images of a run come together.
    """
    with ExitStack() as stack:
        provers: dict[ImagesConfig, Prover] = {}

        def small(data: bytes, images: ImagesConfig) -> bytes | None:
            if images not in provers:
                provers.clear()
                stack.close()
                limits = images.to_show(loaded_plugins(images.decoder_plugins))
                provers[images] = stack.enter_context(Prover(limits, form=form))
            with suppress(ImageError):
                return provers[images].picture(data)
            return None

        yield small
