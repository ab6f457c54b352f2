import pytest

from pseudoris.cli.options import check_apart, training_folder
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation


@pytest.mark.parametrize(
    "folder", ["", "/masks", "/_receipts", "/_plan", "/_manifest", "/images/", "/masks/a/b", "/x/../masks/a"]
)
def test_the_runs_own_folders_are_refused(tmp_path, folder):
    run = RunLocation.open(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"--report .* is inside the run"):
        check_apart(run, RunLocation.open(f"{tmp_path}/run{folder}"), option="--report")


def test_a_link_into_a_run_is_seen_through(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--out .* is inside the run"):
        training_folder(str(tmp_path / "link"), [str(tmp_path / "other"), str(tmp_path / "run")])
