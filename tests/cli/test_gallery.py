"""`pseudoris gallery` writes a page that holds its pictures."""

import pytest

from tests.builders.command import NUM_SCENES, pseudoris


@pytest.mark.ray
def test_the_page_holds_every_image_and_its_expressions(tiny_run, tmp_path):
    page = tmp_path / "page.html"
    shown = pseudoris("gallery", str(tiny_run.out), "--page", str(page))
    assert shown.returncode == 0, shown.stderr
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/") >= NUM_SCENES
    assert "scene-000" in text
    assert "broken-zero-bytes.jpg" in text


def test_without_a_run_the_message_says_how_to_start_one(tmp_path):
    shown = pseudoris("gallery", str(tmp_path))
    assert shown.returncode == 2
    assert "pseudoris annotate" in shown.stderr


@pytest.mark.ray
def test_a_page_in_a_folder_that_does_not_exist_is_refused_without_a_traceback(tiny_run, tmp_path):
    shown = pseudoris("gallery", str(tiny_run.out), "--page", str(tmp_path / "gone" / "page.html"))
    assert shown.returncode == 2
    assert "cannot be written: No such file or directory" in shown.stderr
    assert "Traceback" not in shown.stderr
