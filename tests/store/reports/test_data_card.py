"""The card says what the run holds, is the same for the same run, and never takes a person's words away."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from pseudoris.files.location import RunLocation
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.run_records import Identity
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.reports.data_card import BESIDE_NAME, CARD_NAME, card_text, is_generated, write_datacard
from pseudoris.store.runs.copied_pictures import CopyCounts
from pseudoris.store.runs.receipts import RunTotals
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.scored_runs import begin, commit_scored, finish, scored_run

ROOT = Path(__file__).parents[3]
# The size categories of the Hugging Face Hub from a thousand rows on.
SIZES = [
    *("1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B"),
    "100B<n<1T",
]


@pytest.fixture
def tmp_path(tmp_path):
    """Return a folder with a plain name: `datasets` and `webdataset` read a folder's name as a pattern."""
    return tmp_path.parent


@pytest.fixture
def run(location):
    scored_run(location)
    return location


def card_of(location: RunLocation) -> str:
    return location.read_bytes(CARD_NAME).decode()


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def header_of(tmp_path, *settings: str, preset: str = "paper", **changes):
    """Return a header as runs of published weights have it; nothing of them is looked at."""
    header = begin(RunLocation.open(str(tmp_path / "planned")))
    config = load_config(preset, None, list(settings))
    changes = {"config": config, "config_sha256": config_hash(config), **changes}
    return header.model_copy(update=changes)


def text_of(header, **totals) -> str:
    digests = {"tables_sha256": "0" * 64, "root_sha256": ""}
    return card_text(header, RunTotals(**totals), **digests, excluded={}, copies=CopyCounts(0, 0, 0, 0), cited=None)


def test_a_run_whose_models_do_not_know_its_images_says_so_on_top(tmp_path):
    unknown = {"num_sampled": 16, "num_outside": 16}
    card = text_of(header_of(tmp_path, preset="tiny", domain=unknown))
    assert card.index("> **16 of 16 sampled images are unlike") < card.index("## Sources")
    assert "Do not trust" not in text_of(header_of(tmp_path / "known", preset="tiny"))


def test_it_counts_what_the_tables_hold_and_names_the_models(run):
    write_datacard(run)
    card = card_of(run)
    table = OpenRun.at(run).table(EXPRESSIONS)
    assert f"| kept expressions | {sum(table['kept'].to_pylist()):,} |" in card
    assert f"| expressions, kept or not | {table.num_rows:,} |" in card
    assert "| images | 20 of 20 |" in card
    assert "| … as `corrupt` | 4 |" in card
    for digest in ("a" * 64, "b" * 64, "c" * 64):
        assert f"`{digest}`" in card
    assert "- A caption of one of several masks is kept if distinctiveness > 1.\n" in card
    assert "2026-01-01T00:00:00+00:00" in card
    assert "*to be filled in*" in card


def test_the_same_run_gives_the_same_bytes_whatever_happened(run, tmp_path):
    write_datacard(run)
    once = run.read_bytes(CARD_NAME)
    write_datacard(run)
    assert run.read_bytes(CARD_NAME) == once
    other = RunLocation.open(str(tmp_path / "other"))
    header = begin(other)
    for shard in (3, 1, 0, 2):
        commit_scored(other, header, shard)
    commit_scored(other, header, 1, generation=1)
    finish(other)
    finish(other)
    write_datacard(other)
    assert other.read_bytes(CARD_NAME) == once


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card.replace("license: unknown", "license: cc-by-4.0"),
        lambda card: card + "\nAsk Ana about the second batch.\n",
        lambda card: card.replace("\n", "\r\n"),
        lambda card: card.partition("<!-- generated")[0],
        lambda card: "mine alone",
        lambda card: "",
    ],
    ids=["a field filled in", "a line below", "other line ends", "no seal", "another file", "emptied"],
)
def test_an_edited_card_stays_and_the_new_one_stands_beside_it(location, edit):
    header = begin(location)
    commit_scored(location, header, 0)
    write_datacard(location)
    edited = edit(card_of(location)).encode()
    location.replace(CARD_NAME, edited)
    commit_scored(location, header, 1)
    for _ in range(2):
        assert write_datacard(location) == BESIDE_NAME
        assert location.read_bytes(CARD_NAME) == edited
        beside = location.read_bytes(BESIDE_NAME)
        assert b"| images | 10 of 20 |" in beside
        assert is_generated(beside)
    # Merged by hand: what was generated is the card again, and there is one.
    location.replace(CARD_NAME, beside)
    assert write_datacard(location) == CARD_NAME
    assert location.read_bytes(CARD_NAME) == beside
    assert not location.exists(BESIDE_NAME)


def test_as_a_readme_it_tells_hugging_face_which_files_are_which_table(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    scored_run(location)
    write_datacard(location)
    shutil.copy(location.uri(CARD_NAME), location.uri("README.md"))
    cache = str(tmp_path / "cache")
    loaded = load_dataset(location.root, cache_dir=cache, split="train")
    assert loaded.num_rows == OpenRun.at(location).table(EXPRESSIONS).num_rows
    assert load_dataset(location.root, "masks", cache_dir=cache, split="train").num_rows == 4 * 7
    assert {each["config_name"] for each in front_matter(card_of(location))["configs"]} == {
        "images",
        "masks",
        "expressions",
        "failures",
    }


READY = ("masks.engine=ready", "masks.options.folder=/data/sa1b")
PRIOR = ("masks.prior.kind=table", "masks.prior.path=/data/cutler.parquet")
FILL = "*to be filled in*"
# Settings of the preset `paper`, and beginnings of lines that they give.
MODELS = {
    ("compute.seed=1",): ("| mask proposal | `sam` | `vit_h` | weights ",),
    (*READY, "masks.prior.kind=torchvision", "masks.prior.path=/data/detector.pt"): (
        "| mask proposal | `ready` | – | masks `/data/sa1b` | – |",
        f"| the masks `/data/sa1b` | {FILL} |",
        f"- mask proposal: nothing is known here about the masks `/data/sa1b`: {FILL}.",
        "| instance prior | `torchvision` | – | weights `/data/detector.pt` | – |",
    ),
    PRIOR: (
        "| instance prior | `table` | – | instances `/data/cutler.parquet` | – |",
        f"| mask proposal and instance prior | – | – | – | `{'a' * 64}`, over the digests of the two files |",
    ),
    ("captions.engine=blip",): (
        f"| captions | `blip` | – | – | `{'b' * 64}`, as given by the engine |",
        f"| the weights of `blip` | {FILL} |",
        f"- captions: nothing is known here about `blip`: {FILL}.",
    ),
    ("filtering.engine=siglip", "filtering.keep=[count >= 2]"): (
        "- siglip kept captions by its own bound, which may differ from filtering.tau = 1, of those with count >= 2.",
    ),
    ("filtering.spacy_model=my_pipeline",): (
        "| head nouns | `spacy_first_child` | – | weights `my_pipeline` | – |",
        f"| scores and filter and head nouns | – | – | – | `{'c' * 64}`, over the digests of the two models |",
    ),
    ("filtering.nouns=spacy",): ("| head nouns | `spacy` | – | – | – |",),
}


@pytest.mark.parametrize(("settings", "lines"), MODELS.items(), ids=str)
def test_each_model_and_file_that_was_used_has_its_lines(tmp_path, settings, lines):
    text = text_of(header_of(tmp_path, *settings))
    assert [line for line in lines if f"\n{line}" not in text] == []


def test_an_import_names_no_model_and_no_bias_of_one(tmp_path):
    files = {"instances.json": "d" * 64, "refs(unc).p": "e" * 64}
    method = {"import": {"format": "refer", "files": files, "splits": ["train", "val"], "orientation": "stored"}}
    identity = Identity(method=method, weights={}, device_kind="cpu", versions={"pyarrow": "26"})
    text = text_of(header_of(tmp_path, origin="import", identity=identity))
    assert "No model was used." in text
    assert "| annotation | `refer`, stored |" in text
    for name, digest in files.items():
        assert f"| … its file `{name}` | sha256 `{digest}` |" in text
        assert f"| the annotation `{name}` | *to be filled in* |" in text
    assert "| … its splits | `train`, `val` |" in text
    assert "| who annotated, how | *to be filled in* |" in text
    assert front_matter(text)["annotations_creators"] == ["found"]
    assert "synthetic" not in front_matter(text)["tags"]
    assert "No human has checked the masks" not in text
    assert "distinctiveness >" not in text


@pytest.mark.parametrize(
    ("expressions", "size"), [(999, "n<1K"), *((10**power, sizes) for power, sizes in enumerate(SIZES, 3))]
)
def test_the_front_matter_of_a_run_of_any_size_loads_with_its_size(tmp_path, expressions, size):
    card = text_of(header_of(tmp_path), expressions=expressions)
    assert front_matter(card)["size_categories"] == [size]


def test_names_from_outside_are_neither_markup_nor_lines(tmp_path):
    source = "photos`|<img src=x>\n# Licence: free\x1b[2J\u202e"
    text = text_of(header_of(tmp_path, source=source))
    assert "# Licence: free\n" not in text.replace("\\n", "")
    assert "| images | `photos'¦<img src=x>\\n# Licence: free\\x1b[2J\\u202e` |" in text


def test_the_papers_are_those_of_the_citation_file_and_of_what_was_used(tmp_path):
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    held = {each["title"]: str(each["year"]) for each in cited}
    found: dict[str, str] = {}
    for origin, number in (("annotate", 4), ("ppt", 4), ("import", 0)):
        text = text_of(header_of(tmp_path / origin, origin=origin))
        of_card = dict(zip(*(re.findall(pattern, text, re.MULTILINE) for pattern in _BIBTEX), strict=True))
        assert len(of_card) == number
        assert (PPT in of_card) == (origin == "ppt")
        assert text.count("{") == text.count("}")
        found |= of_card
    assert found == held


PPT = "Curriculum Point Prompting for Weakly-Supervised Referring Image Segmentation"
_BIBTEX = (r"^  title\s+= \{(.*)\},$", r"^  year\s+= \{(\d{4})\}$")
