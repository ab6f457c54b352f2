"""The formats that a worker may open: the closed list of schemas, and the Pillow plugins that a site names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from schemas.errors import ConfigError
from schemas.formats import IMAGE_FORMATS

# Importing a plugin registers its format; MPO is opened by way of JPEG.
_PLUGINS: Final = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)


def import_plugins(plugins: Sequence[str]) -> None:
    """Import Pillow plugin modules, which register their formats.

    Raises:
        ConfigError: A module cannot be imported.
    """
    for name in plugins:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"images.decoder_plugins names {name!r}, which cannot be imported ({error}): "
                "install it on every node, or take it off the list"
            ) from error


def allowed_formats(plugins: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that may be opened: ours, and with `plugins` those that they register.

    Raises:
        ConfigError: A module cannot be imported.
    """
    import_plugins(plugins)
    return registered_formats() if plugins else IMAGE_FORMATS


def registered_formats() -> tuple[str, ...]:
    """Return our formats, and those of every plugin outside Pillow that this process has imported."""
    foreign = (name for name, (factory, _) in Image.OPEN.items() if not factory.__module__.startswith("PIL."))
    return (*IMAGE_FORMATS, *foreign)
