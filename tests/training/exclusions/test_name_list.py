"""Names and ids of a text file; a line that is neither is told by its number."""

from __future__ import annotations

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.exclusions.exclude_option import read_name_list


def test_names_paths_and_ids_are_read_and_comments_are_not(tmp_path):
    path = tmp_path / "list.txt"
    lines = ("\ufeff# held out", "a cat.jpg", "", "  val/b.png ", "000000000012", "COCO_val2014_000000000013.jpg")
    path.write_bytes("\r\n".join(lines).encode())
    found = read_name_list(path)
    assert found[0].values == {"a cat.jpg", "val/b.png", "12", "13"}
    assert found[0].name == "list.txt"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "lists nothing. Write a file name or a COCO id on each line"),
        (b"# only\n\n", "lists nothing"),
        (b"a.jpg\n\xff\xfe\n", "line 2 is not UTF-8"),
        (b"a.jpg\nb.jpg\tc.jpg\n", r"line 2 has the control characters of 'b.jpg\\tc.jpg'"),
        (b"ab" * 32, "line 1 is the sha256 abab.*column sha256"),
        (b"a.jpg\n/\n", "line 2 is '/', not a name"),
    ],
)
def test_a_file_that_lists_no_names_is_told_by_its_line(tmp_path, data, message):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_name_list(path)


def test_a_file_too_large_to_read_whole_is_told_by_its_size(tmp_path):
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(ConfigError, match=r"list\.txt has 5,368,709,120 bytes, at most 4,294,967,296 are read"):
        read_name_list(path)
