from benchmarks import __main__ as everything


def test_every_part_writes_its_json_beside_the_others(tmp_path, monkeypatch):
    def run(arguments):
        given.append(arguments)

    given = []
    names = list(everything.PARTS)
    monkeypatch.setattr(everything, "PARTS", {name: (run, ["--repeats", "1"]) for name in names})
    everything.main(["--folder", str(tmp_path / "out")])
    assert given == [["--repeats", "1", "--json", str(tmp_path / "out" / f"{name}.json")] for name in names]


def test_all_benchmarks_of_the_folder_are_parts():
    assert {"captioner", "masks", "crops", "filter", "pipeline", "gpu", "roofline"} <= everything.PARTS.keys()
