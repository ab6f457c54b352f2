"""A world of everyday things with masks like SAM's and a captioner's errors, without pictures and without models.

`python -m evidence.experiments.composing.everyday_world` composes hundreds of images in a minute. A seed draws the
things of an image with all that is true of them, then masks, and 14 captions of each. Which texts are right is decided
by what is true of all things, with a mask or without, by arithmetic of its own.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import typer
import yaml

from evidence.experiments.composing.everyday_truth import SIZE, Thing, is_right
from evidence.experiments.composing.photographs import KINDS, run_config
from evidence.experiments.quality.markdown_cells import as_json, cell, markdown_table
from pseudoris.primitives import rle
from pseudoris.primitives.english import plural_of
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.schemas import shard
from pseudoris.schemas.estimate import ImageBootstrap, Sums
from pseudoris.schemas.ids import image_id, mask_id, mask_index
from pseudoris.workers.composing.composer import composer_of

THINGS: Final = Path(__file__).with_name("everyday_things.yaml")
_LEAST_PX: Final = 40
# So many draws of a misnamed mask have the other name or colour; of all others so many are wrong, half by the noun.
_SYSTEMATIC, _WRONG, _WRONG_BLURRED, _COLOUR_SAID = 0.75, 0.1, 0.45, 0.7
# So many errors in words of a mask are the same one.
_REPEATED: Final = 0.7
# A listener's mean log-probability over both crops has this deviation, and is so much lower with what is around.
_HEARD, _AROUND = 0.5, 3.0
# So many things have a mask, and so many parts of large things.
_OUTLINED: Final = {True: 0.85, False: 0.12}
# Mean log-odds of predicted IoU and stability, of whole things and of all other masks; their deviation is 0.8.
_SCORES: Final = {True: (2.8, 3.2), False: (1.6, 2.2)}
# Of masks that are below a share of the picture, so many are blurred: 4 of 10 of their draws are wrong.
_BLURRED: Final = {0.005: 0.6, 0.02: 0.4, 1.1: 0.15}
_BEFORE: Final = ("size", "age", "human age", "cover", "colour", "fur", "material")
_CLOTHES: Final = ("worn", "on legs", "on the head")
# Each thing with such a slot has a value there.
_ALWAYS: Final = ("colour", "fur", *_CLOTHES[:1])
_LEAD_INS: Final = ("a close up of ", "a blurry picture of ", "part of ")
_PLURALS: Final = ("two {}", "a group of {}", "several {}", "{}", "a row of {}")
_ABOVE, _LEAST_TEXTS = 0.8, 400
_FIGURES: Final = ("one mask.right", "one mask.stated", "yield", "coverage", "group.right", "none.right")
Pixels = npt.NDArray[np.bool_]


class Condition(NamedTuple):
    """Shares of the masks: on background, and misnamed in most draws. Exact masks are all things, and nothing else."""

    background: float = 0.0
    systematic: float = 0.0
    is_exact: bool = False


CONDITIONS: Final = {
    **{f"exact, systematic {share:.0%}": Condition(0.0, share, is_exact=True) for share in (0.0, 0.08)},
    **{
        f"background {ground:.0%}, systematic {share:.0%}": Condition(ground, share)
        for ground, share in ((0.0, 0.0), (0.0, 0.08), (0.06, 0.04), (0.12, 0.0), (0.12, 0.08))
    },
}


class Everyday(NamedTuple):
    """An image with its candidates, its things with their parts, and which of these each mask is; None of no thing."""

    image: shard.ShardImage
    things: Sequence[Thing]
    of_mask: Sequence[int | None]


class World:
    """Draws images of a list of things. Equal seeds have equal things, under one condition equal masks and captions."""

    def __init__(self, path: Path = THINGS, least_area: float = 0.0) -> None:
        """Take a YAML file of slots, scenes and kinds; masks below a share of the picture are too small."""
        self._least_area, tree = least_area, yaml.safe_load(path.read_text(encoding="utf-8"))
        self._kinds, self._scenes, self._slots = tree["kinds"], tree["scenes"], tree["slots"]
        colours = [ways[0] for ways in self._slots["colour"]]
        for slot in _CLOTHES:
            self._slots[slot] = [[f"in {_a(f'{colour} {each}')}"] for each in self._slots[slot] for colour in colours]

    def draw(self, seed: int, condition: Condition) -> Everyday:
        """Return an image."""
        draw = random.Random(f"things {seed}")
        name = draw.choice(sorted(self._scenes))
        often = {each: kind["often"] for each, kind in self._kinds.items() if name in kind["at"]}
        named = draw.choices([*often], [*often.values()]) * (draw.randint(3, 7) if draw.random() < 0.5 else 1)
        named += draw.choices([*often], [*often.values()], k=draw.randint(2, 14 - len(named)))
        things, shown = list[Thing](), np.full(SIZE, -1)
        for number, (depth, each) in enumerate(sorted((draw.random(), each) for each in named)):
            things.append(self._thing(each, draw, depth, self._scenes[name]["scenery"]))
            shown[_ellipse(draw, self._kinds[each], depth)] = number
        at = [shown == number for number in range(len(things))]
        for thing, there in zip([*things], [*at], strict=True):
            for part, of_part in self._parts(thing, there, draw):
                things.append(part)
                at.append(of_part)
        seen = [number for number, there in enumerate(at) if there.sum() >= _LEAST_PX]
        placed = [_at(things[number], at[number]) for number in seen]
        return self._outlined(seed, condition, self._scenes[name], placed, np.array([at[number] for number in seen]))

    def _thing(self, name: str, draw: random.Random, depth: float, scenery: Sequence[str]) -> Thing:
        kind = self._kinds[name]
        narrow = [each for each in draw.sample(kind["narrow"], min(1, len(kind["narrow"]))) if draw.random() < 0.6]
        slots = [slot for slot in kind["looks"] if slot in _ALWAYS or draw.random() < 0.5]
        looks = {slot: draw.choice(self._slots[slot]) for slot in slots}
        looks |= {has: [has] for has in kind["has"] if draw.random() < 0.3}
        worn = [looks[slot][0].split()[-2:] for slot in _CLOTHES if slot in looks]
        also = {each for colour, cloth in worn for each in (colour, cloth, f"{colour} {plural_of(cloth)}")}
        also |= {word for each in narrow for word in each.split()[:-1]}
        return Thing(name, (name, *kind["names"], *narrow, *kind["wide"]), looks, frozenset({*also, *scenery}), depth)

    def _parts(self, whole: Thing, there: Pixels, draw: random.Random) -> Iterator[tuple[Thing, Pixels]]:
        rows, columns = np.nonzero(there)
        half = int(len(rows) ** 0.5 / 6)
        for part, others in self._kinds[whole.kind]["parts"].items() if half > 4 else ():
            worn = next(iter(whole.looks.get("worn", ["in a white shirt"]))).split()
            colour, name = (worn[-2], worn[-1]) if part == "shirt" else (draw.choice(self._slots["colour"])[0], part)
            for _ in range(2 if part in ("wheel", "leg", "arm") else 1):
                y, x = draw.choice(rows.tolist()), draw.choice(columns.tolist())
                near = np.zeros(SIZE, np.bool_)
                near[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = True
                yield Thing(whole.kind, (name, *others), {"colour": [colour]}, frozenset(), whole.depth), near & there

    def _outlined(self, seed: int, condition: Condition, scene: Any, things: Sequence[Thing], at: Pixels) -> Everyday:
        draw, is_exact = random.Random(f"masks {seed} {condition}"), condition.is_exact
        chances = [float(thing.is_whole) if is_exact else _OUTLINED[thing.is_whole] for thing in things]
        of_mask: list[int | None] = [number for number, chance in enumerate(chances) if draw.random() < chance]
        ratio = condition.background / (1.0 - condition.background)
        of_mask += [None] * sum(draw.random() < ratio for _ in of_mask)
        free = np.asarray(~at.any(axis=0))
        pixels = np.array([_background(draw, free) if number is None else at[number] for number in of_mask])
        counts, image = rle.encode(torch.from_numpy(pixels.reshape(-1, *SIZE))), image_id(str(seed))
        masks, said = list[shard.MaskRecord](), list[shard.ExpressionRecord]()
        for index, (number, box) in enumerate(zip(of_mask, rle.boxes(counts, SIZE), strict=True)):
            means = _SCORES[number is not None and things[number].is_whole]
            scores = [None, None] if is_exact else [1.0 / (1.0 + math.exp(-draw.gauss(mean, 0.8))) for mean in means]
            mask, area = mask_id(image, index), int(pixels[index].sum())
            if area < self._least_area * pixels[index].size:
                continue
            masks.append(shard.MaskRecord(mask, index, SIZE, counts[index], box, area, *scores))
            drawn, heard = defaultdict[str, list[shard.CaptionSample]](list), dict[str, float]()
            blurred = next(share for bound, share in _BLURRED.items() if area < bound * pixels[index].size)
            faults = draw.random() < blurred, draw.random() < condition.systematic
            for place, (text, likely) in enumerate(self._captions(draw, number, things, scene, faults)):
                heard[text] = max(likely, heard.get(text, -math.inf))
                crop = shard.crop_context(1.2) if place % 2 else shard.CROP_MASKED
                drawn[text].append(shard.CaptionSample(crop, "top_k", 1 + place, None, None))
            listener = random.Random(f"listener {seed} {condition} {index}")
            for text, samples in drawn.items():
                row = shard.ExpressionRecord((mask,), text, (*samples,), head_noun=head_noun(text))
                said.append(replace(row, caption_score=listener.gauss(heard[text], _HEARD)))
        record = shard.ShardImage(0, image, str(seed), height=SIZE[0], width=SIZE[1])
        record = replace(record, masks=(*masks,), expressions=(*said,), num_too_small=len(of_mask) - len(masks))
        return Everyday(record, things, of_mask)

    def _captions(
        self, draw: random.Random, number: int | None, things: Sequence[Thing], scene: Any, faults: tuple[bool, bool]
    ) -> Iterator[tuple[str, float]]:
        """Yield the draws, of the mask alone and with what is around it in turn, with about their log-probability."""
        thing, (is_blurred, is_systematic) = None if number is None else things[number], faults
        around = [each.names[0] for place, each in enumerate(things) if place != number and each.is_whole]
        names, wrong = self._names(draw, thing, scene, around)
        looks = {"colour": draw.choice(self._slots["colour"])} if thing is None else thing.looks
        kind = self._kinds[draw.choice(sorted(self._kinds)) if thing is None else thing.kind]
        may_have = [*kind["looks"], *kind["has"]] if thing is None or thing.is_whole else ["colour"]
        errs, slot = min(draw.expovariate(1 / _WRONG), 0.5), draw.choice(may_have)
        usual = {slot: draw.choice(draw.choice(self._slots.get(slot, [[slot]])))}
        misnamed = draw.choice(wrong) if is_systematic and draw.random() < 0.5 else None
        recoloured = [slot for slot in looks if slot in _ALWAYS and is_systematic and misnamed is None]
        other = {slot: draw.choice(self._slots[slot])[0] for slot in recoloured}
        often = {slot: _COLOUR_SAID if slot in ("colour", "fur") else draw.uniform(0.15, 0.7) for slot in looks}
        wrong_nouns = [*wrong, *around[:1], "object"] if misnamed is None else [misnamed]
        share = (_WRONG_BLURRED if is_blurred else _WRONG / 2) if misnamed is None else _SYSTEMATIC
        for place in range(14):
            noun = draw.choices([*names], [*names.values()])[0]
            if draw.random() < share:
                noun = misnamed or draw.choice(wrong_nouns)
            said = {slot: draw.choice(ways) for slot, ways in looks.items() if draw.random() < often[slot]}
            said |= {slot: other[slot] for slot in other if slot in said and draw.random() < _SYSTEMATIC}
            if draw.random() < errs:
                slot = draw.choice([*said] if said and draw.random() < 0.5 else may_have)
                error = {slot: draw.choice(draw.choice(self._slots.get(slot, [[slot]])))}
                said |= usual if draw.random() < _REPEATED else error
            said = {slot: said[slot] for slot in draw.sample([*said], min(2, len(said)))}
            likely = (1.0 - share) * names.get(noun, 0.0) / sum(names.values())
            likely += share * wrong_nouns.count(noun) / len(wrong_nouns)
            for slot in often | said:
                likely *= often.get(slot, 1.0) if slot in said else 1.0 - often[slot]
            for slot, way in said.items():
                if way == other.get(slot):
                    likely *= _SYSTEMATIC
                elif way in looks.get(slot, ()):
                    likely *= (1.0 - _SYSTEMATIC * (slot in other)) / len(looks[slot])
                else:
                    likely *= (
                        errs / 2 / len(may_have) * (_REPEATED if way == usual.get(slot) else (1.0 - _REPEATED) / 10)
                    )
            score = math.log(max(likely, 1e-12))
            before = [said[slot] for slot in _BEFORE if slot in said]
            after = [way for slot, way in said.items() if slot not in _BEFORE]
            if place % 2 == 0:
                lead_in = draw.choice(_LEAD_INS) if draw.random() < 0.12 else ""
                yield lead_in + _a(" ".join((*before, noun, *after))), score - _AROUND * bool(lead_in)
            elif noun in around and draw.random() < 0.3:
                text = draw.choice(_PLURALS).format(" ".join((*before, plural_of(noun))))
                yield f"{text} {draw.choice(scene['scenery'])}", score - 2 * _AROUND
            else:
                beside = [f"next to {_a(each)}" for each in around[:2]] if draw.random() < 0.2 else scene["scenery"]
                tail = draw.sample(beside, min(len(beside), draw.randint(0, 1)))
                yield _a(" ".join((*before, noun, *after, *tail))), score - _AROUND * len(tail)

    def _names(self, draw: random.Random, thing: Thing | None, scene: Any, around: list[str]) -> tuple[Any, list[str]]:
        """Return what a mask is called, with weights, and what it is confused with."""
        if thing is None:
            often = dict.fromkeys(scene["background"], 1.0) | {draw.choice(scene["background"]): 5.0}
            return often, [*scene["background"], *around]
        if not thing.is_whole:
            others = dict.fromkeys(thing.names[1:], 1.0)
            return {**others, thing.names[0]: 4.0, thing.kind: draw.choice([0.0, 2.0, 8.0])}, [thing.kind]
        often = {name: draw.gammavariate(1.0, 0.3 / len(thing.names[1:])) for name in thing.names[1:]}
        return {thing.kind: 0.7, **often}, self._kinds[thing.kind]["wrong"]


def _a(text: str) -> str:
    return text if text.split()[-1] in ("jeans", "pants", "shorts") else f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _ellipse(draw: random.Random, kind: Mapping[str, Any], depth: float) -> Pixels:
    """Return a rectangle or an ellipse of a kind: what is near is large and low."""
    height = kind["size"] * (0.25 + 0.75 * depth) * SIZE[0]
    width, x = height * kind["form"] * draw.uniform(0.8, 1.2), draw.random() * SIZE[1]
    y = (0.45 + 0.5 * depth + draw.gauss(0.0, 0.04)) * SIZE[0] - height / 2
    down, along = np.ogrid[: SIZE[0], : SIZE[1]]
    parts = abs(down - y) / (height / 2), abs(along - x) / (width / 2)
    return np.asarray(np.maximum(*parts) < 1 if draw.random() < 0.3 else parts[0] ** 2 + parts[1] ** 2 < 1)


def _background(draw: random.Random, free: Pixels) -> Pixels:
    found = free & _ellipse(draw, {"size": 1.2 * draw.random(), "form": 2 * draw.random()}, draw.random() - 0.3)
    return found if found.sum() >= _LEAST_PX else free


def _at(thing: Thing, there: Pixels) -> Thing:
    y, x = (float((each.mean() + 0.5) / side) for each, side in zip(np.nonzero(there), SIZE, strict=True))
    return replace(thing, x=x, y=y)


def sums_of(drawn: Everyday, composed: shard.ShardImage) -> Sums:
    """Return the sums of an image, of all texts of one mask and of each kind."""
    found, right_of_one = defaultdict[str, list[float]](lambda: [0.0, 0.0]), set[int | None]()
    for each in (row for row in composed.expressions if row.source == shard.SOURCE_COMPOSER):
        targets = [drawn.of_mask[mask_index(name)] for name in each.target_mask_ids]
        right, stated = is_right(each.text, targets, drawn.things), each.confidence or 0.0
        for kind in (each.kind, *(["one mask"] if len(targets) == 1 else [])):
            above = {"above": stated - right} if stated > _ABOVE else {}
            for name, value in {"right": right, "stated": stated, **above}.items():
                found[f"{kind}.{name}"][0] += value
                found[f"{kind}.{name}"][1] += 1.0
        right_of_one |= {*targets} if right and len(targets) == 1 else set()
    covered = [number in right_of_one for number, thing in enumerate(drawn.things) if thing.is_whole]
    found |= {"yield": [found["one mask.right"][1], len(drawn.of_mask)], "coverage": [sum(covered), len(covered)]}
    return {name: (pair[0], pair[1]) for name, pair in found.items()}


def main(
    images: Annotated[int, typer.Option(min=1, help="How many images of each condition.")] = 400,
    first: Annotated[int, typer.Option(min=0, help="The seed of the first image.")] = 0,
    things: Annotated[Path, typer.Option(help="The list of things.")] = THINGS,
    least_area: Annotated[float, typer.Option(min=0, max=1, help="Smaller masks are dropped and counted.")] = 0.0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over `base-composed`.")] = None,
) -> None:
    """Print what the composer says of the world, by condition, and how far what it states is true."""
    config = run_config("base-composed", assignments or [], [], is_taught=False)
    composer, world, tree = composer_of(config), World(things, least_area), dict[str, Any]()
    for name, condition in CONDITIONS.items():
        drawn = (world.draw(seed, condition) for seed in range(first, first + images))
        found = ImageBootstrap(sums_of(each, composer(each.image)) for each in drawn)
        tree[name] = {each: {**as_json(found.ratio(each)), "number": found.total(each)[1]} for each in found.names}
        typer.echo(f"{name}: " + ", ".join(f"{each} {cell(tree[name].get(each))}" for each in _FIGURES))
        above = [(kind, found.total(f"{kind}.above")[1], tree[name].get(f"{kind}.above")) for kind in KINDS]
        rows = [(kind, f"{total:.0f}", cell(each, sign="+")) for kind, total, each in above if total >= _LEAST_TEXTS]
        typer.echo(markdown_table((f"stated above {_ABOVE}", "texts", "stated - true"), rows))
    if json_path is not None:
        facts = {"things": things.stem, "images": images, "first": first, "least_area": least_area}
        json_path.write_text(json.dumps({**facts, "conditions": tree}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
