import pytest

from cli.destinations import check_apart
from schemas.errors import ConfigError
from store.location import RunLocation


@pytest.mark.parametrize(
    "folder", ["", "/masks", "/_receipts", "/_plan", "/_manifest", "/images/", "/masks/a/b", "/x/../masks/a"]
)
def test_the_runs_own_folders_are_refused(tmp_path, folder):
    run = RunLocation.open(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"--report .* is a folder of the run itself"):
        check_apart(run, RunLocation.open(f"{tmp_path}/run{folder}"), option="--report")


def test_other_folders_are_accepted(tmp_path):
    run = RunLocation.open(str(tmp_path / "run"))
    for folder in ("run/evaluation", "elsewhere"):
        check_apart(run, RunLocation.open(f"{tmp_path}/{folder}"), option="--report")
