"""Cards of each kind of run say what its tables hold: each claim that depends on the run is compared with the rows."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import ExportOptions, ExportRequest, croissant, huggingface
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.schemas.keep_rule import parse_conditions
from pseudoris.schemas.run_records import Identity
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.store.reports.data_card import CARD_NAME, write_datacard
from pseudoris.store.reports.statistics import run_statistics
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.kept_clauses import kept_clauses
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.viewer.gallery_sample import read_summary
from tests.builders.clauses import evaluated
from tests.builders.scored_runs import finish, scored_run
from tests.store.builders import commit_images, empty, make_entries, make_mask, start_run

COMPOSED = Path(__file__).parents[2] / "versions" / "0.6.0" / "finished"
PAPERS = {"yu2024pseudoris", "dai2024ppt", "kirillov2023sam", "yu2022coca", "radford2021clip"}


def place_of(folder: Path, name: str) -> RunLocation:
    return RunLocation.open(str(folder / name))


def tiny(folder: Path) -> RunLocation:
    scored_run(place := place_of(folder, "tiny"))
    return place


def tiny_composed(folder: Path) -> RunLocation:
    shutil.copytree(COMPOSED, folder / "composed")
    return place_of(folder, "composed")


def refiltered(folder: Path) -> RunLocation:
    keep = parse_conditions(["correctness > 0.7", "position > 0.95"])
    refilter(tiny_composed(folder), place := place_of(folder, "refiltered"), RuleChange(0.9, keep, "drop"))
    return place


def spoken(folder: Path, name: str, source: str, **fields: object) -> RunLocation:
    """Return a run of no model: a mask of each image has two expressions of `source`; people's are both kept."""
    place = place_of(folder, name)
    fields = {"identity": Identity(weights={}, device_kind="none", versions={"pyarrow": "26"}, **fields.pop("made"))}
    header = start_run(place, make_entries(2, 2), **fields, origin={"human": "import", "recipe": "ppt"}[source])

    def image(entry):
        mask = make_mask(entry.image_id, 0, (2, 2, 9, 7))
        said = [ExpressionRecord((mask.mask_id,), "the dog", (), kept=True, source=source)]
        said.append(replace(said[0], text="the cat", kept=source == "human"))
        return replace(empty(entry), masks=(mask,), expressions=tuple(said))

    commit_images(place, header, image)
    finish(place)
    return place


def imported(folder: Path) -> RunLocation:
    return spoken(folder, "imported", "human", made={"method": {"import": {"format": "refer", "files": {}}}})


def of_ppt(folder: Path) -> RunLocation:
    return spoken(folder, "ppt", "recipe", made={"method": {"recipe": "objects"}})


def of_concepts(folder: Path) -> RunLocation:
    words = ("masks.engine=sam3_concepts", "masks.options={concepts: [dog, cat]}", "masks.weights.uri=models/sam3")
    scored_run(place := place_of(folder, "concepts"), *words, "filtering.keep=[count >= 2]")
    return place


def combined(folder: Path) -> RunLocation:
    runs = [("drawn", tiny(folder)), ("composed", tiny_composed(folder)), ("people", imported(folder))]
    combine(runs, place := place_of(folder, "combined"))
    return place


@dataclass(frozen=True)
class Known:
    """What a maker's run is known to be."""

    papers: frozenset[str]
    is_packaged: bool  # weights of the package made it
    unscored: str  # expressions that may be kept and have no distinctiveness


OF_TINY = frozenset(PAPERS - {"dai2024ppt"})
LONE = "captions of a mask alone in its image"
KINDS = {
    tiny: Known(OF_TINY, True, LONE),
    tiny_composed: Known(OF_TINY, True, f"{LONE}, of composed ones"),
    refiltered: Known(OF_TINY, True, "composed ones"),
    imported: Known(frozenset(), False, "people's"),
    of_ppt: Known(frozenset({"dai2024ppt"}), False, "all"),
    of_concepts: Known(OF_TINY - {"kirillov2023sam"}, True, LONE),
    combined: Known(OF_TINY, True, f"{LONE}, of composed ones, of people's"),
}


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_card_says_what_the_tables_hold(tmp_path, make):
    known, run = KINDS[make], OpenRun.at(make(tmp_path))
    clauses = kept_clauses(run.header)
    rows = [(shard, shard.table("expressions").to_pylist()) for shard in run.shards()]
    kept = [row for _, some in rows for row in some if row["kept"]]
    for shard, some in rows:
        own = kept_clauses(run.header.of_shard(shard.receipt.shard))
        assert evaluated(own, some) == [row["kept"] for row in some]
    write_datacard(run.location)
    datacard = run.location.read_bytes(CARD_NAME).decode()
    request = ExportRequest(run, place_of(tmp_path, "export"), ExportOptions())
    card = huggingface.card(request, {"train": 1}, {"masks": 1}, {}, sha256="")
    protocol = croissant.description(request, ExportReport({}, {}, 0), title="", name="", files={}, tables={})
    told = json.loads(protocol)
    # Every door says the same clauses; an import's export has no part on how models made it.
    assert run_statistics(run.location).clauses == read_summary(run).clauses == clauses
    for clause in clauses:
        plain = clause.words.removeprefix(f"{clause.run}: ")
        assert f"- {plain}.\n" in datacard
        if not run.header.is_human:
            assert f"- {clause.words}.\n" in card
            assert f"{clause.words} (settings of the run)" in told["rai:dataAnnotationProtocol"]
    # No clause is of a sort that the run cannot have, and no sentence is left that is true of another preset alone.
    sources = {row["source"] for _, some in rows for row in some}
    assert {clause.source for clause in clauses} == sources
    for text in (datacard, card, protocol.decode()):
        for wrong in ("rarely say", "missing score", "if it has distinctiveness", "or if its mask is alone"):
            assert wrong not in text
    assert f"null of {known.unscored} |" in card
    null = {(row["source"], len(row["target_mask_ids"])) for row in kept if row["distinctiveness"] is None}
    assert null or known.unscored == LONE
    # Who made it.
    has_people, only_people = "human" in sources, sources == {"human"}
    assert ("No person wrote" in card) == (not has_people)
    assert ("- found\n" in datacard, "- machine-generated\n" in datacard) == (has_people, not only_people)
    assert ("synthetic" in card.split("---")[1]) == (not only_people)
    assert ("Apache-2.0, that of pseudoris" in datacard) == known.is_packaged
    assert ("The weights shipped with pseudoris" in card) == known.is_packaged
    assert ("No model was used" in datacard) == any(not each.identity.weights for each in run.header.runs)
    assert set(re.findall(r"^@\w+\{(\w+),", datacard, re.MULTILINE)) == known.papers
    # Figures.
    assert f"| kept expressions | {len(kept):,} |" in datacard
    alone = sum(row["source"] == "model" and row["distinctiveness"] is None for row in kept)
    assert (f"| {alone:,} kept captions are of a mask" in datacard.replace("- ", "| ")) == (alone > 0)
