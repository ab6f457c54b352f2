"""The image formats that a worker may open: a fixed list, and those of Pillow plugins (`images.decoder_plugins`)."""

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

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.source_settings import IMAGE_FORMATS

# Importing a plugin registers its format. MPO is opened through JPEG.
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
                "install it on every node, or remove it"
            ) from error


def allowed_formats(plugins: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that may be opened: the fixed list, and those that `plugins` register.

    Raises:
        ConfigError: A module cannot be imported.
    """
    import_plugins(plugins)
    return registered_formats() if plugins else IMAGE_FORMATS


def registered_formats() -> tuple[str, ...]:
    """Return the fixed list, and the formats of every plugin outside Pillow that this process has imported."""
    foreign = (name for name, (factory, _) in Image.OPEN.items() if not factory.__module__.startswith("PIL."))
    return (*IMAGE_FORMATS, *foreign)
