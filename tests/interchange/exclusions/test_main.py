"""The command that writes a table of hashes, which `--exclude` reads back."""

from __future__ import annotations

import sys

import pytest

from pseudoris.interchange.exclusions.__main__ import main
from pseudoris.interchange.exclusions.exclude_option import read_hash_table, read_image_folder
from tests.builders.human import write_images


def test_a_table_in_a_missing_folder_is_refused_before_any_image_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "no images"), str(tmp_path / "none" / "t.csv")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"there is no folder {tmp_path / 'none'}: make it" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "writes the table of hashes that `--exclude` reads" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bench.parquet", "bench.csv"])
def test_the_table_of_a_folder_excludes_what_the_folder_does(tmp_path, monkeypatch, capsys, name):
    folder = write_images(tmp_path / "bench", "a.png", "b.png")
    monkeypatch.setattr(sys, "argv", ["x", str(folder), str(tmp_path / name)])
    assert main() == 0
    assert "2 images" in capsys.readouterr().out
    found = read_hash_table(tmp_path / name, 8), read_image_folder(folder, 8)
    assert [rule.values for rule in found[0]] == [rule.values for rule in found[1]]


def test_a_folder_without_images_is_told_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), str(tmp_path / "t.csv")])
    assert main() == 2
    assert "lists no image" in capsys.readouterr().err
