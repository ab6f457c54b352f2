"""`pseudoris ppt` as a user meets it."""

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from recipes.object_centric import write_object_centric


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.mark.slow
def test_objects_are_written_and_the_summary_counts_them(tmp_path) -> None:
    images = write_object_centric(tmp_path / "objects", num_images=4)
    (images / "broken").mkdir()
    (images / "broken" / "no.png").write_bytes(b"")

    options = ("--sample", 5, "--set", "filtering.weights.uri=random:0")
    result = invoke("ppt", "objects", images, tmp_path / "out", *options)

    assert result.exit_code == 0, result.output
    assert "5 of 5:" in result.output
    assert "1 quarantined" in result.output
    assert "with a referent, 0 undecided" in result.output
    assert "empty_file" in result.output
    assert str(tmp_path / "out" / "expressions") in result.output
    assert "A data recipe of PPT" in (tmp_path / "out" / "DATACARD.md").read_text()
    with pytest.raises(ConfigError, match="--sample 6: FOLDER has 5 images"):
        invoke("ppt", "objects", images, tmp_path / "more", "--sample", 6, *options[2:])


def test_a_folder_that_the_table_lacks_is_refused_and_nothing_is_written(tmp_path) -> None:
    images = write_object_centric(tmp_path / "objects", num_images=7)
    table = tmp_path / "table.csv"
    first, *others = sorted(each.name for each in images.iterdir())
    table.write_text(f"folder,name\n{first},house finch\n")

    # Five are named, the others counted.
    assert len(others) == 6
    lacking = (
        rf"table.csv does not name 6 of 7 folders of images: {', '.join(map(repr, others[:5]))}, and 1 more. Add a row"
    )
    with pytest.raises(ConfigError, match=lacking):
        invoke("ppt", "objects", images, tmp_path / "out", "--names", table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ppt", "objects", "{tmp}/none", "{tmp}/out"), "none' does not exist.\nThe nearest folder that exists is "),
        (("ppt", "objects", "{tmp}", "{tmp}/out", "--preset", "huge"), "no preset 'huge'. The presets are tiny, paper"),
        (("ppt", "objects", "{tmp}", "{tmp}/out", "--names", "{tmp}/no.csv"), "no.csv cannot be read"),
        (("ppt", "objects", "{tmp}/flat", "{tmp}/out"), "flat.png is not in a class folder"),
        (("ppt", "compose", "{tmp}/none", "{tmp}/out"), "there is no run at"),
        (("ppt", "pairs", "{tmp}/none", "{tmp}/out"), "there is no run at"),
        (("ppt", "compose", "{tmp}/a", "{tmp}/a/b"), "would be inside its parent"),
    ],
)
def test_a_users_mistake_is_an_error_with_a_remedy(tmp_path, words, message) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "flat.png").write_bytes(b"x")

    with pytest.raises(ConfigError, match=message):
        invoke(*(word.format(tmp=tmp_path) for word in words))
