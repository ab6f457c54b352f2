"""Tries the composer on photographs with captions and verdicts, without weights, in a minute.

    python -m evidence.experiments.composing.photographs --assets ../shared/assets --verdicts FILE

`captions/captions.json` of the assets has captions of the instances of some photographs. They become an image as the
filter stage leaves it: ready masks without SAM's scores, draws counted, heads by rules. The composer of a preset reads
it as in a run, by default after what `pseudoris calibrate --composer` learns of the same captions. `--large` keeps the
instances of at least 1 % of the picture as the masks of the run, numbered anew.

Verdicts are JSON lines: photo, masks (`all` or `large`), targets, kind, text, verdict, reason, odd. A vision-language
model gave them. `--unjudged` and `--sheets` write what a judge still needs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final
from unittest import mock

import numpy as np
import typer
import yaml

from evidence.experiments.composing.photograph_sheets import write_sheets
from evidence.experiments.quality.markdown_cells import as_json, cell, markdown_table, value
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives import rle
from pseudoris.primitives.english import PEOPLE, plural_of
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.primitives.kinds import supported_name
from pseudoris.primitives.noun_phrases import NounPhrase
from pseudoris.primitives.pixel_colours import colour_shares
from pseudoris.schemas import shard
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import ImageBootstrap, Sums
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.ids import image_id, mask_id, mask_index
from pseudoris.training.calibration.run_units import corrected
from pseudoris.workers.composing.composer import _forms, composer_of
from pseudoris.workers.composing.likelihood import Likelihood, likelihood_of

ALL, LARGE = "all", "large"
# A mask of `large` has at least this share of the picture's pixels.
_LEAST_AREA: Final = 0.01
_CROPS: Final = {"masked": shard.CROP_MASKED, "context": shard.crop_context(1.2)}
# What `--leave-out` chooses from, and the share of right texts that it must reach.
_BOUND_NAMES: Final = ("min_first", "min_further")
_BOUNDS: Final = tuple(product((0.45, 0.5, 0.55, 0.6), (0.65, 0.7, 0.75, 0.8)))
_GOAL: Final = 0.88
KINDS: Final = ("one mask", "attribute", "position", "relation", "group", "none")
SHARES: Final = ("with a text", "coverage")
# Names of COCO's categories, wider ones included.
_WORDS: Final = Path(__file__).parents[3] / "tests" / "photographs" / "words.yaml"
# A composed text: photo, masks, targets, kind, text, confidence. A line of verdicts has the same keys, and its own.
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Photograph:
    """A photograph with its candidates; mask n is the instance `numbers[n]` of the file, of `categories[n]`."""

    image: shard.ShardImage
    numbers: Sequence[int]
    categories: Sequence[str]


def photographs(assets: Path, masks: str) -> list[Photograph]:
    """Return the photographs that have captions, in the order of the file."""
    data = json.loads((assets / "photos" / "instances.json").read_text(encoding="utf-8"))
    told = json.loads((assets / "captions" / "captions.json").read_text(encoding="utf-8"))
    names = {each["id"]: each["name"] for each in data["categories"]}
    rows: defaultdict[int, list[Any]] = defaultdict(list)
    for row in data["annotations"]:
        rows[row["image_id"]].append({**row, "category": names[row["category_id"]]})
    entries = [each for each in data["images"] if each["file_name"] in told]
    return [_photograph(assets / "photos", each, rows[each["id"]], told[each["file_name"]], masks) for each in entries]


def _photograph(photos: Path, entry: Row, rows: Sequence[Any], told: Sequence[Any], masks: str) -> Photograph:
    name, size = entry["file_name"], (entry["height"], entry["width"])
    if [row["id"] for row in rows] != [each["annotation"] for each in told]:
        raise ValueError(f"{name}: the captions are of other instances than instances.json has")
    image = shard.ShardImage(0, image_id(name), name, height=size[0], width=size[1])
    numbers = list[int]()
    for number, row in enumerate(rows):
        counts = rle.compressed_counts(row["segmentation"], size) or ""
        (box,), area, new = rle.boxes([counts], size), int(rle.areas([counts], size)[0]), len(numbers)
        if masks == ALL or area >= _LEAST_AREA * size[0] * size[1]:
            mask = shard.MaskRecord(mask_id(image.image_id, new), new, size, counts, box, area)
            said = (*image.expressions, *_candidates(mask.mask_id, told[number]))
            image = replace(image, masks=(*image.masks, mask), expressions=said)
            numbers.append(number)
    pixels = decode_proven((photos / name).read_bytes())
    shares = colour_shares(pixels, [mask.rle_counts for mask in image.masks])
    shown = tuple(replace(mask, colours=each) for mask, each in zip(image.masks, shares, strict=True))
    image = replace(image, masks=shown, num_too_small=len(rows) - len(numbers))
    return Photograph(image, numbers, [rows[number]["category"] for number in numbers])


def _candidates(mask: str, told: Mapping[str, Sequence[str]]) -> Iterator[shard.ExpressionRecord]:
    drawn: defaultdict[str, list[shard.CaptionSample]] = defaultdict(list)
    for kind, crop in _CROPS.items():
        # Each draw has a rule of its own, because the samples of a candidate differ.
        for place, text in enumerate(told[kind]):
            drawn[shard.clean_text(text)].append(shard.CaptionSample(crop, "top_k", 1 + place, None, None))
    for text, samples in drawn.items():
        yield shard.ExpressionRecord((mask,), text, tuple(samples), head_noun=head_noun(text))


def run_config(preset: str, assignments: Sequence[str], photos: Sequence[Photograph], *, is_taught: bool) -> RunConfig:
    """Return the config of a run whose draws are counted; taught, with what the captions of `photos` teach."""
    config = load_config(preset, None, ["captions.listening=null", *assignments])
    filtering, values = config.filtering, config.filtering.fitted_values
    if filtering.fitted is None or values.posterior is None:
        raise ValueError(f"the preset {preset} does not compose")
    if not is_taught:
        return config
    taught = replace(values, posterior=corrected(values.posterior, (photo.image for photo in photos)))
    fitted = filtering.fitted.model_copy(update={"values": taught})
    return config.model_copy(update={"filtering": filtering.model_copy(update={"fitted": fitted})})


def composed(photos: Sequence[Photograph], config: RunConfig, masks: str) -> Iterator[Row]:
    """Yield what the composer says, image by image."""
    composer = composer_of(config)
    for photo in photos:
        for each in composer(photo.image).expressions:
            if each.source == shard.SOURCE_COMPOSER:
                row = {"photo": photo.image.key, "masks": masks, "targets": [*map(mask_index, each.target_mask_ids)]}
                yield {**row, "kind": each.kind, "text": each.text, "confidence": each.confidence}


class _Factored(Likelihood):
    """Keeps the factors of the last phrase that it was asked for, as minus their logs."""

    @cached_property
    def factors(self) -> dict[str, float]:
        return {}

    def log_right(self, mask: int, phrase: NounPhrase, is_rival: Floats) -> float:
        found = super().log_right(mask, phrase, is_rival)
        noun, whole = (float(np.log(self.posterior.fits(each)[mask])) for each in (NounPhrase(phrase.noun), phrase))
        is_object, unseen = float(np.log(self.posterior.is_object[mask])), self.log_unseen(phrase)
        self.factors.update({"nouns": -noun, "words": noun - whole, "rivals": whole + is_object + unseen - found})
        self.factors.update({"object": -is_object, "unseen": -unseen})
        return found


def best_forms(photo: Photograph, config: RunConfig) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield each mask's supported name, "" without one, and the factors of its likeliest form; {} without a form.

    No bound applies. `place` is what a form adds to its phrase: a side, the other members of a row, an anchor.
    """
    composer = composer_of(config)
    free = composer.config.model_copy(update={"min_first": 0.0})
    view = _Factored(**vars(likelihood_of(photo.image, free, composer.posterior, composer._read)))
    for mask, nouns in enumerate(view.posterior.nouns):
        best, factors = -np.inf, dict[str, float]()
        for form in _forms(view, mask):
            if form.log_right > best and form.text() is not None:
                best, factors = form.log_right, dict(view.factors)
                factors["place"] = -form.log_right - sum(factors.values())
        named = supported_name(nouns)
        yield named.name if named else "", factors


@cache
def names_of(category: str, *, has_wider: bool = True) -> frozenset[str]:
    """Return the names, and their plurals, of one of COCO's categories."""
    told = yaml.safe_load(_WORDS.read_text(encoding="utf-8")).get(category, {})
    names = {category, category.split()[-1], *told.get("names", ()), *(told.get("wider", ()) if has_wider else ())}
    names |= PEOPLE if category == "person" else set()
    return frozenset((*names, *map(plural_of, names)))


class Verdicts:
    """Verdicts by photograph, instances and text: what was judged with all masks need not be judged with the large."""

    def __init__(self, lines: Iterable[str], numbers: Mapping[tuple[str, str], Sequence[int]]) -> None:
        """Take JSON lines, and by photograph and `masks` the instances of the masks."""
        self._numbers, self.rows = numbers, defaultdict[tuple[Any, ...], list[Row]](list)
        for row in map(json.loads, lines):
            self.rows[self.key(row)].append(row)

    def key(self, row: Row, masks: str | None = None) -> tuple[Any, ...]:
        """Return what a row is about; `masks` replaces the row's own."""
        targets = tuple(self._numbers[row["photo"], row["masks"]][each] for each in row["targets"])
        return row["photo"], masks or row["masks"], targets, row["text"]

    def of(self, row: Row) -> tuple[bool, bool] | None:
        """Return if all judges say right, and if one says odd; None without a verdict. The same masks come first."""
        keys = (self.key(row, masks) for masks in (row["masks"], ALL, LARGE))
        found = next((self.rows[key] for key in keys if key in self.rows), ())
        is_right = all(each["verdict"] == "right" for each in found)
        return (is_right, any(each["odd"] for each in found)) if found else None

    def agreement(self, said: Sequence[Row]) -> str:
        """Say how far judges agree, and `said` with what was judged: the texts, and their confidences to 3 digits."""
        twice = [{each["verdict"] for each in rows} for rows in self.rows.values() if len(rows) > 1]
        new = {self.key(row): round(row["confidence"], 3) for row in said}
        old = {key: rows[0]["confidence"] for key, rows in self.rows.items() if "confidence" in rows[0]}
        old = {key: each for key, each in old.items() if key[1] == said[0]["masks"]} if said else {}
        return (
            f"{sum(self.of(row) is None for row in said)} of {len(said)} texts have no verdict. Of {len(twice)} judged "
            f"twice {sum(len(each) == 1 for each in twice)} are judged alike. Of {len(old)} judged with a confidence "
            f"{len(new.keys() & old.keys())} are composed again, {len(new.items() & old.items())} with the same."
        )


def sums_of(num_masks: int, said: Sequence[Row], verdicts: Verdicts | None) -> Sums:
    """Return the sums of a photograph; coverage counts masks with a right text of one mask."""
    found, total = dict[str, tuple[float, float]](), float(num_masks)
    for kind in KINDS:
        rows = [row for row in said if (len(row["targets"]) == 1 if kind == "one mask" else row["kind"] == kind)]
        told = [(row, each) for row in rows if verdicts is not None and (each := verdicts.of(row)) is not None]
        sums = {"right": sum(each[0] for _, each in told), "odd": sum(each[1] for _, each in told)}
        sums["stated"] = sum(row["confidence"] for row, _ in told)
        found |= {f"{kind}.{name}": (float(each), float(len(told))) for name, each in sums.items()}
        found[f"{kind}.a mask"] = (float(len(rows)), total)
        if kind == "one mask":
            found["with a text"] = (float(len({row["targets"][0] for row in rows})), total)
            found["coverage"] = (float(len({row["targets"][0] for row, each in told if each[0]})), total)
    return found


def figures(photos: Sequence[Photograph], said: Sequence[Row], verdicts: Verdicts | None) -> dict[str, Any]:
    """Return numbers, and shares with intervals for which photographs are resampled."""
    by_photo = {photo.image.key: [row for row in said if row["photo"] == photo.image.key] for photo in photos}
    found = ImageBootstrap(sums_of(len(each.numbers), by_photo[each.image.key], verdicts) for each in photos)
    tree: dict[str, Any] = {name: as_json(found.ratio(name)) for name in SHARES}
    for kind in KINDS:
        tree[kind] = {name: as_json(found.ratio(f"{kind}.{name}")) for name in ("a mask", "right", "stated", "odd")}
        (num_right, judged), texts = found.total(f"{kind}.right"), found.total(f"{kind}.a mask")[0]
        tree[kind] |= {"texts": round(texts), "judged": round(judged), "num_right": round(num_right)}
    return {"masks": sum(len(photo.numbers) for photo in photos), **tree}


def left_out(photos: Sequence[Photograph], config: RunConfig, masks: str, verdicts: Verdicts) -> dict[str, Any]:
    """Return figures of each photograph by the bounds that are best on all others, and how often each was chosen.

    The best cover most masks of those that reach the goal of right texts, or have the largest share of them.
    """
    sums, composing = dict[tuple[float, float], list[Sums]](), composer_of(config).config
    for bounds in _BOUNDS:
        update = {"composing": composing.model_copy(update=dict(zip(_BOUND_NAMES, bounds, strict=True)))}
        said = list(composed(photos, config.model_copy(update=update), masks))
        rows = ([row for row in said if row["photo"] == photo.image.key] for photo in photos)
        sums[bounds] = [sums_of(len(photo.numbers), of_it, verdicts) for photo, of_it in zip(photos, rows, strict=True)]

    def worth(bounds: tuple[float, float], place: int) -> tuple[float, float]:
        found = ImageBootstrap(sums[bounds][:place] + sums[bounds][place + 1 :])
        right, judged = found.total("one mask.right")
        return min(right / max(judged, 1.0), _GOAL), found.total("coverage")[0]

    chosen = [max(_BOUNDS, key=lambda bounds: worth(bounds, place)) for place in range(len(photos))]
    found = ImageBootstrap(sums[bounds][place] for place, bounds in enumerate(chosen))
    names = {"right": "one mask.right", "a mask": "one mask.a mask", "coverage": "coverage", "odd": "one mask.odd"}
    tree = {name: as_json(found.ratio(key)) for name, key in names.items()} | {
        "none": as_json(found.ratio("none.right"))
    }
    return {**tree, "bounds": {str(bounds): chosen.count(bounds) for bounds in dict.fromkeys(chosen)}}


def nouns_and_factors(photos: Sequence[Photograph], config: RunConfig) -> dict[str, Any]:
    """Return the mean factors of the masks' best forms, and how many supported names fit COCO's category."""
    forms = [form for photo in photos for form in best_forms(photo, config)]
    categories = [category for photo in photos for category in photo.categories]
    factors = [form[1] for form in forms if form[1]]
    named = [(form[0], category) for form, category in zip(forms, categories, strict=True)]
    return {
        "factors": {name: round(float(np.mean([each[name] for each in factors])), 4) for name in factors[0]},
        "with a form": len(factors),
        "supported": sum(name != "" for name, _ in named),
        "fitting": sum(name in names_of(category) for name, category in named),
        "fitting, not wider": sum(name in names_of(category, has_wider=False) for name, category in named),
    }


def by_words(photos: Sequence[Photograph], config: RunConfig, masks: str) -> Mapping[str, float]:
    """Return the texts of one mask, a mask, by the words that may be said: needed ones, any, or fewer."""
    needs, total = Likelihood.needs_all_words, sum(len(photo.numbers) for photo in photos)

    def has_rival(view: Likelihood, mask: int, phrase: NounPhrase) -> bool:
        return len(view.members(NounPhrase(phrase.noun), mask)) > 0 and needs(view, mask, phrase)

    found = {}
    for name, rule in {"shipped": needs, "every word": lambda *_: True, "that some rival lacks": has_rival}.items():
        with mock.patch.object(Likelihood, "needs_all_words", rule):
            said = composed(photos, config, masks)
            found[name] = sum(len(row["targets"]) == 1 for row in said) / total
    return found


def _tables(tree: Row) -> Iterator[str]:
    yield markdown_table((f"of {tree['masks']} masks", ""), [(each, cell(tree[each])) for each in SHARES])
    rows = []
    for kind in KINDS:
        row = tree[kind]
        right = [f"{row['num_right']} of {row['judged']}", cell(row["right"]), value(row["stated"]), value(row["odd"])]
        rows.append([kind, str(row["texts"]), cell(row["a mask"]), *right])
    yield markdown_table(("texts", "number", "a mask", "right", "share", "stated", "odd"), rows)
    forms = tree["forms"]
    rows = [[name, f"{each:.3f}"] for name, each in forms["factors"].items()]
    yield markdown_table((f"best forms of {forms['with a form']} masks", "mean of -log"), rows)
    shares = [f"{forms[name]} ({forms[name] / tree['masks']:.3f})" for name in ("fitting", "fitting, not wider")]
    yield (
        f"{forms['supported']} of {tree['masks']} masks have a supported name: it fits COCO's category for {shares[0]} "
        f"and is not wider for {shares[1]}."
    )
    words = ", ".join(f"{name} {each:.2f}" for name, each in tree["by words"].items())
    yield f"Texts of one mask, a mask, by the words that may be said: {words}."


def main(
    assets: Annotated[Path, typer.Option(help="The folder with `photos` and `captions`.")],
    preset: Annotated[str, typer.Option(help="Its section `composing` composes.")] = "base-composed",
    is_large: Annotated[bool, typer.Option("--large", help="Only masks of at least 1 % of the picture.")] = False,
    is_taught: Annotated[bool, typer.Option("--taught/--untaught", help="As after `calibrate --composer`.")] = True,
    judged: Annotated[list[Path] | None, typer.Option("--verdicts", help="JSON lines; may be repeated.")] = None,
    unjudged: Annotated[Path | None, typer.Option(help="Write the texts without a verdict to this file.")] = None,
    sheets: Annotated[Path | None, typer.Option(help="Write what a judge looks at to this folder.")] = None,
    leaves_out: Annotated[bool, typer.Option("--leave-out", help="Choose bounds on all photographs but one.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write figures and texts to this file.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the preset.")] = None,
) -> None:
    """Print what the composer says of the photographs, and what the verdicts say of it."""
    masks, both = LARGE if is_large else ALL, {name: photographs(assets, name) for name in (ALL, LARGE)}
    config = run_config(preset, assignments or [], both[masks], is_taught=is_taught)
    said = list(composed(both[masks], config, masks))
    numbers = {(photo.image.key, name): photo.numbers for name, photos in both.items() for photo in photos}
    lines = [line for path in judged or () for line in path.read_text(encoding="utf-8").splitlines() if line]
    verdicts = Verdicts(lines, numbers) if judged else None
    tree = {**figures(both[masks], said, verdicts), "forms": nouns_and_factors(both[masks], config)}
    tree["by words"] = by_words(both[masks], config, masks)
    typer.echo("\n\n".join(_tables(tree)))
    if verdicts is not None:
        typer.echo(verdicts.agreement(said))
        if leaves_out:
            tree["left out"] = left_out(both[masks], config, masks, verdicts)
            typer.echo(f"bounds chosen on the other photographs: {json.dumps(tree['left out'])}")
    new = (row for row in said if verdicts is None or verdicts.of(row) is None)
    asked = [{name: row[name] for name in row if name != "confidence"} for row in new]
    if unjudged is not None:
        unjudged.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    if sheets is not None:
        write_sheets(sheets, assets / "photos", [photo.image for photo in both[masks]], asked)
    if json_path is not None:
        json_path.write_text(json.dumps({**tree, "said": said}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
