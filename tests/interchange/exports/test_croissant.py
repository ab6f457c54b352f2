"""`croissant.json` beside every export: valid by `mlcroissant`; claims are of the vocabulary, and rest on something."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from unittest.mock import Mock

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import EXPORTS
from pseudoris.interchange.exports.export_job import ExportJob
from pseudoris.schemas.config import ComposingConfig
from tests.interchange.exports.builders import BuiltRun, export, stored

# Source: mlcommons/croissant 401f6ff, docs/croissant_rai.ttl, without the two that mlcroissant 1.1.1 spells in another
# way (dataCollectionTimeframe, dataManipulationProtocol). It passes over a key that it does not know.
RAI_KEYS = {
    *("dataCollection", "dataCollectionType", "dataCollectionMissingData", "dataCollectionRawData"),
    *("dataPreprocessingProtocol", "dataImputationProtocol", "dataReleaseMaintenancePlan"),
    *("personalSensitiveInformation", "dataAnnotationProtocol", "dataAnnotationPlatform", "dataAnnotationAnalysis"),
    *("annotationsPerItem", "annotatorDemographics", "machineAnnotationTools", "dataSocialImpact", "dataBiases"),
    *("dataLimitations", "dataUseCases"),
}
RECORDS = {"_export.json", "croissant.json"}
# What only the publisher knows.
LEFT_TO_THE_PUBLISHER = ("citeAs", "datePublished", "version")


def read(place: RunLocation):
    """Return the export as its reader opens it, which checks the description."""
    # Here: it takes a second to import.
    mlcroissant = pytest.importorskip("mlcroissant", reason="it comes with the extra dev")
    return mlcroissant.Dataset(jsonld=f"{place.root}/croissant.json")


def described(place: RunLocation) -> dict:
    return json.loads(place.read_bytes("croissant.json"))


def claims(place: RunLocation, key: str) -> str:
    found = described(place).get(f"rai:{key}", "")
    return found if isinstance(found, str) else "\n".join(found)


def with_header(run: BuiltRun, **changes) -> BuiltRun:
    return replace(run, header=run.header.model_copy(update=changes))


def with_weights(uri: str, **changes) -> Callable[[BuiltRun], BuiltRun]:
    """Return what gives a run a filter of these weights alone, with changes of its settings."""

    def changed(run: BuiltRun) -> BuiltRun:
        config = run.header.config
        weights = config.filtering.weights.model_copy(update={"uri": uri})
        filtering = config.filtering.model_copy(update={"weights": weights, **changes})
        identity = run.header.identity.model_copy(update={"weights": {"filter": "b" * 64}})
        return with_header(run, config=config.model_copy(update={"filtering": filtering}), identity=identity)

    return changed


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_every_export_is_described_so_that_mlcroissant_accepts_it(name, built_run, tmp_path):
    place = RunLocation.open(str(tmp_path / "export"))
    export(name, built_run, place)
    metadata = read(place).metadata
    warnings = metadata.ctx.issues.warnings
    assert len(warnings) == len(LEFT_TO_THE_PUBLISHER)
    assert all(any(f"/{key}" in warning for warning in warnings) for key in LEFT_TO_THE_PUBLISHER)
    assert metadata.license == ["unknown"]
    assert metadata.annotations_per_item.startswith("Counted while it was written: ")
    found = described(place)
    keys = {key.removeprefix("rai:"): value for key, value in found.items() if key.startswith("rai:")}
    assert keys.keys() <= RAI_KEYS
    texts = [text for value in keys.values() for text in (value if isinstance(value, list) else [value])]
    assert all(isinstance(text, str) and text for text in texts)


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_every_file_is_there_by_its_digest_or_by_one_pattern(name, built_run, place):
    export(name, built_run, place)
    distribution = described(place)["distribution"]
    files = {each["@id"]: each for each in distribution if each["@type"] == "cr:FileObject"}
    patterns = [each["includes"] for each in distribution if each["@type"] == "cr:FileSet"]
    for path in stored(place.root).keys() - RECORDS:
        data = (Path(place.root) / path).read_bytes()
        if path in files:
            assert files[path]["sha256"] == hashlib.sha256(data).hexdigest()
        else:
            assert sum(fnmatch(path, pattern) for pattern in patterns) == 1, path
    assert files.keys() <= stored(place.root).keys()
    # No name of millions of files is remembered.
    assert len(patterns) <= 4
    assert all(any(fnmatch(path, pattern) for path in stored(place.root)) for pattern in patterns)


@pytest.mark.slow
@pytest.mark.parametrize("target_bytes", [2_000, 2**20])
def test_mlcroissant_reads_as_many_rows_as_the_tables_have(built_run, place, target_bytes):
    report = export("parquet", built_run, place, target_bytes=target_bytes)
    reader = read(place)
    rows = {name: list(reader.records(name)) for name in report.rows}
    assert {name: len(of) for name, of in rows.items()} == report.rows
    candidates = [text for image in built_run.truth for mask in image.masks for text in mask.candidates]
    assert [row["expressions/text"].decode() for row in rows["expressions"]] == candidates
    assert all(len(row["masks/box_xyxy_px"]) == 4 for row in rows["masks"])
    assert rows["images"][0]["images/bytes"][:2] == b"\xff\xd8"
    assert rows["expressions"][0]["expressions/samples"][0]["expressions/samples/num_others"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["masks", "objects"])
def test_mlcroissant_reads_images_masks_and_texts_of_hf(layout, built_run, place):
    report = export("hf", built_run, place, target_bytes=2_000, split="validation", layout=layout)
    assert report.files["validation"] > 1
    rows = list(read(place).records("default"))
    assert len(rows) == report.rows["validation"]
    for row, masks in zip(rows, built_run.with_texts().values(), strict=True):
        found = row[f"default/{layout}"]
        if layout == "masks":
            found = {key: [each[key] for each in found] for key in found[0]}
        size = (row["default/width"], row["default/height"])
        assert [row["default/image"].size, *(each.size for each in found[f"default/{layout}/mask"])] == [size] * (
            len(masks) + 1
        )
        texts = [tuple(text.decode() for text in of_mask) for of_mask in found[f"default/{layout}/expressions"]]
        assert texts == [mask.texts for mask in masks]


def test_it_names_engines_and_digests_but_never_where_images_or_weights_were(built_run, place):
    run = with_header(with_weights("/srv/customer/clip.pt")(built_run), source="/srv/customer/photos")
    export("coco", run, place)
    assert b"customer" not in place.read_bytes("croissant.json")
    assert claims(place, "machineAnnotationTools") == (
        f"filter: clip, {'b' * 64} (its digest in the identity of the run)"
    )
    assert "meaningless" not in claims(place, "dataLimitations")
    assert "Synthetic: " in claims(place, "dataAnnotationProtocol")
    assert "distinctiveness > 1.35" in claims(place, "dataAnnotationProtocol")
    assert "composed" not in claims(place, "dataAnnotationProtocol")


def with_composer(run: BuiltRun) -> BuiltRun:
    composing = ComposingConfig(kinds=("position", "none"))
    return with_header(run, config=run.header.config.model_copy(update={"composing": composing}))


@pytest.mark.parametrize(
    ("changed", "key", "said"),
    [
        (with_weights("builtin:tiny/clip"), "dataLimitations", "simulated captions"),
        (with_weights("random:1"), "dataLimitations", "are random"),
        (with_composer, "dataAnnotationProtocol", "composed expressions out of words of the captions: none, position"),
        (
            lambda run: with_header(run, domain={"num_sampled": 9, "num_outside": 8}),
            "dataLimitations",
            "8 of 9 sampled images are unlike",
        ),
    ],
)
def test_what_a_run_rests_on_is_said_and_of_other_runs_it_is_not(built_run, place, changed, key, said):
    export("coco", changed(built_run), place)
    assert said in claims(place, key)
    export("coco", with_weights("builtin:tiny/clip", engine="of_a_plugin")(built_run), place, is_overwriting=True)
    assert said not in claims(place, key)


def test_an_import_claims_neither_models_nor_synthesis(built_run, place):
    identity = built_run.header.identity.model_copy(update={"weights": {}})
    export("coco", with_header(built_run, origin="import", identity=identity), place)
    text = place.read_bytes("croissant.json").decode().lower()
    assert "imported annotation" in claims(place, "dataAnnotationProtocol")
    assert not [word for word in ("synthetic", "machineannotationtools", "databiases", "no person") if word in text]


def test_what_was_left_out_is_counted(built_run, place):
    export("hf", built_run, place, max_tokens=17)
    missing = claims(place, "dataCollectionMissingData")
    assert "3 expressions of more than 17 CLIP tokens" in missing
    assert "1 images that could not be annotated" in missing
    assert claims(place, "annotationsPerItem") == "Counted while it was written: 6 train, 7 masks, 9 expressions"


def test_tables_that_are_being_replaced_have_no_description_and_are_finished_over_that_of_a_killed_one(
    built_run, place, monkeypatch
):
    export("parquet", built_run, place)
    monkeypatch.setattr(ExportJob, "new_file", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export("parquet", built_run, place, is_overwriting=True)
    assert not place.exists("croissant.json")
    monkeypatch.undo()
    place.replace("croissant.json", b"of the killed one")
    export("parquet", built_run, place)
    assert described(place)["name"].startswith("pseudoris-parquet-")
