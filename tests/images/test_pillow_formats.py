"""Which formats may be opened, and how a site adds to them."""

from __future__ import annotations

from PIL import Image

from pseudoris.images.pillow_formats import (
    allowed_formats,
    explain_missing,
    import_plugins,
    loaded_plugins,
)
from pseudoris.schemas.untrusted import IMAGE_FORMATS


def test_formats_that_run_other_programs_are_not_on_the_list():
    Image.init()
    import_plugins(["tests.builders.hostile_plugin"])
    assert "EPS" in Image.OPEN
    assert "EPS" not in allowed_formats(("tests.builders.hostile_plugin",))


def test_a_plugin_adds_its_format_where_it_is_imported_and_named():
    import_plugins(["tests.builders.hostile_plugin"])
    assert "HOSTILE" in allowed_formats(("tests.builders.hostile_plugin",))
    assert allowed_formats(()) == IMAGE_FORMATS


def test_naming_a_plugin_imports_nothing():
    assert allowed_formats(("a_strangers_module",)) == IMAGE_FORMATS
    assert loaded_plugins(("a_strangers_module", "tests.builders.hostile_plugin")) == ("tests.builders.hostile_plugin",)
    assert "--plugin a_strangers_module" in explain_missing(("a_strangers_module",))
