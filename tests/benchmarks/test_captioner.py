"""The benchmark's other side is no straw man: it draws the very captions that the engine draws."""

import pytest

from benchmarks import captioner
from schemas.config_loading import load_config


@pytest.fixture(scope="module")
def config():
    return load_config("tiny", assignments=["captions.max_length=8"])


def test_both_sides_draw_the_same_captions(config):
    (row,) = captioner.measure(config, num_masks=3, repeats=1)
    assert row.note.startswith("30 of 30 captions equal token for token")
    assert row.baseline_s > 0
    assert row.ours_s > 0


def test_the_command_line_writes_rows_with_the_promised_keys(tmp_path):
    path = tmp_path / "rows.json"
    captioner.main(["--masks", "2", "--max-length", "6", "--repeats", "1", "--json", str(path)])
    assert '"baseline_s"' in path.read_text(encoding="utf-8")
