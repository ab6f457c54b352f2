"""The drawing of the house is the one that its imports make."""

from tests.docs.rooms import DRAWING, draw


def test_the_drawing_is_what_the_imports_make() -> None:
    assert DRAWING.read_text(encoding="utf-8") == draw(), "run `python -m tests.docs.rooms`"
