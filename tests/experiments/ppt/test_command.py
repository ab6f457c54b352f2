"""What the ablation's command refuses before it makes anything."""

from pathlib import Path

import pytest
import typer

from experiments.ppt.__main__ import main
from experiments.ppt.ablation_jobs import job_names, jobs_of
from experiments.ppt.ablation_rows import WHOLE

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("is_pseudo", [True, False])
def test_the_names_that_may_be_asked_for_are_those_of_the_jobs(tmp_path, is_pseudo) -> None:
    names = job_names(is_pseudo=is_pseudo)

    jobs = jobs_of(WHOLE, tmp_path, tmp_path, is_pseudo=is_pseudo)
    assert names == list(dict.fromkeys(job.name for job in jobs))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"only": ["full", "flor"]}, "--only flor: there is no such training here; allowed: full, .*, floor$"),
        ({"only": ["pseudo"], "is_pseudo": False}, "--only pseudo: there is no such training here"),
    ],
)
def test_a_name_of_no_training_is_refused_with_those_that_there_are(tmp_path, words, message) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        main(tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        {"is_quick": True},
        {"only": ["floor"]},
        {"only": ["floor", "full", "plain"]},
        {"is_pseudo": False},
        {"epochs_factor": 0.5},
        {"world": "second"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("option", "path"), [("json_path", DOCS / "records" / "ppt.json"), ("page", DOCS / "records" / "ppt.md")]
)
def test_a_trial_or_a_part_leaves_docs_alone(tmp_path, monkeypatch, words, option, path) -> None:
    # However the path is written.
    monkeypatch.chdir(DOCS / "..")
    before = path.read_bytes()
    with pytest.raises(typer.BadParameter, match="lies in docs, which has the figures of all rows"):
        main(tmp_path / "out", **words, **{option: path.relative_to(DOCS.parent)})
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_trial_may_write_elsewhere_and_the_whole_into_docs(tmp_path, monkeypatch) -> None:
    class BegunError(Exception):
        """The work is reached."""

    def make_runs(*arguments: object, **options: object) -> None:
        raise BegunError

    monkeypatch.setattr("experiments.ppt.__main__.make_runs", make_runs)
    with pytest.raises(BegunError):
        main(tmp_path / "out", is_quick=True, json_path=tmp_path / "docs" / "records" / "ppt.json")
    with pytest.raises(BegunError):
        main(
            tmp_path / "out",
            json_path=DOCS / "records" / "ppt.json",
            page=DOCS / "records" / "ppt.md",
            epochs_factor=WHOLE.epochs_factor,
        )
