"""The image formats that may be opened: a fixed list, and those of Pillow plugins (`images.decoder_plugins`).

A plug-in runs code, so only `import_plugins` imports one, and only names from the user's own configuration or command
line are passed to it. The header of a run names its plug-ins too, but a run may come from a stranger: readers of runs
decode with those plug-ins that the user has loaded, and import none.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from PIL import Image

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.untrusted import HEIF_PLUGIN, IMAGE_FORMATS

# Importing a plugin registers its format. MPO is opened through JPEG.
for _name in ("Avif", "Bmp", "Gif", "Jpeg2K", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_name}ImagePlugin")


def import_plugins(plugins: Sequence[str]) -> None:
    """Import Pillow plugin modules, which register their formats.

    Args:
        plugins: Names that the user gave in this session; never those of a run's header.

    Raises:
        ConfigError: A module cannot be imported.
    """
    for name in plugins:
        try:
            importlib.import_module(name)
        except ImportError as error:
            command = " (pip install 'pseudoris[heif]')" if name == HEIF_PLUGIN else ""
            raise ConfigError(
                f"images.decoder_plugins names {name!r}, which cannot be imported ({error}): "
                f"install it on every node{command}, or remove it"
            ) from error


def allowed_formats(plugins: Sequence[str]) -> tuple[str, ...]:
    """Return the formats that may be opened: the fixed list, and those of `plugins` that are imported already."""
    return registered_formats() if loaded_plugins(plugins) else IMAGE_FORMATS


def loaded_plugins(plugins: Sequence[str]) -> tuple[str, ...]:
    """Return those of `plugins` that this process has imported."""
    return tuple(name for name in plugins if name in sys.modules)


def explain_missing(plugins: Sequence[str]) -> str | None:
    """Return why formats of `plugins` cannot be opened, and the remedy; None if all of them are imported."""
    missing = [name for name in plugins if name not in sys.modules]
    if not missing:
        return None
    options = " ".join(f"--plugin {name}" for name in missing)
    return (
        f"the run was made with the decoder plug-in(s) {', '.join(map(repr, missing))}, which are not loaded: a run is "
        f"data, and its header imports no module. If you trust them, give {options}, or import them first (Python)"
    )


def registered_formats() -> tuple[str, ...]:
    """Return the fixed list, and the formats of every plugin outside Pillow that this process has imported."""
    foreign = (name for name, (factory, _) in Image.OPEN.items() if not factory.__module__.startswith("PIL."))
    return (*IMAGE_FORMATS, *foreign)
