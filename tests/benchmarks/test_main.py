"""Every benchmark of the folder is a part of `python -m benchmarks`."""

from importlib.util import find_spec

import pytest

from benchmarks import __main__ as everything


def test_every_part_writes_its_json_beside_the_others_and_a_failure_is_told_at_the_end(tmp_path, monkeypatch):
    def run(name, arguments):
        given.append((name, arguments))
        return 1 if name == "masks" else 0

    given = []
    monkeypatch.setattr(everything, "run", run)
    with pytest.raises(SystemExit, match="failed: masks"):
        everything.main(["--folder", str(tmp_path / "out")])
    assert [name for name, _ in given] == list(everything.PARTS)
    for name, arguments in given:
        assert arguments == [*everything.PARTS[name], "--json", str(tmp_path / "out" / f"{name}.json")]


def test_all_benchmarks_of_the_folder_are_parts():
    assert all(find_spec(f"benchmarks.{name}") for name in everything.PARTS)
    assert {"captioner", "masks", "crops", "filter", "pipeline", "roofline"} <= everything.PARTS.keys()


@pytest.mark.long
def test_a_part_is_a_process_of_its_own():
    assert everything.run("scale", ["--help"]) == 0
    assert everything.run("scale", ["--no-such-option"]) == 2
