import pytest

from pseudoris.audit.web.blind_clicks import BlindClicks
from pseudoris.schemas.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    (tmp_path / "verdicts").mkdir()
    return tmp_path / "verdicts" / "ana.clicks"


def test_the_first_click_on_a_pair_stands_and_a_line_that_a_crash_cut_off_is_left_out(file, tmp_path):
    BlindClicks(tmp_path, "ana").keep("p1", (3.5, 4.0))
    with file.open("ab") as cut:
        cut.write(b'["p2", [1')
    BlindClicks(tmp_path, "ana").keep("p3", None)
    with file.open("ab") as again:
        again.write(b'["p1", [9, 9]]\n')
    assert BlindClicks(tmp_path, "ana").clicks == {"p1": (3.5, 4.0), "p3": None}


@pytest.mark.parametrize(
    "line", ['["p1", [1]]', '["p1", 5]', '["p1", ["x", "y"]]', '["p1", [1, NaN]]', "[1, null]", '["p1"]', "5"]
)
def test_a_line_that_is_no_click_is_refused_by_file_and_number(file, tmp_path, line):
    file.write_text(f'["p0", null]\n{line}\n')
    with pytest.raises(ConfigError, match=r"ana\.clicks, line 2: .* is not a pair with its click\. Restore the file"):
        BlindClicks(tmp_path, "ana")


def test_a_file_that_cannot_be_read_is_named(file, tmp_path):
    file.mkdir()
    with pytest.raises(ConfigError, match=r"ana\.clicks cannot be read \(Is a directory\)"):
        BlindClicks(tmp_path, "ana")
