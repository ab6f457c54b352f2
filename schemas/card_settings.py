"""What `auto` is in the settings of memory and precision on a GPU. For `config`, `workers/stages.py` and `doctor`.

It follows from the kind and the total memory of the card, never from what is free: the same card must give the same
settings. The run's header has them, and a resume takes them from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import GetPydanticSchema
from pydantic_core import core_schema

AUTO: Final = "auto"
# Only in these sections `auto` waits for a card. Elsewhere, as in `source.format`, it says something else.
AUTO_SECTIONS: Final = ("masks", "captions", "compute")
# Lets a whole number also be `auto`. Its field stays an `int`, because no engine sees `auto`: models load after a card
# has decided. A union would name each of its members in an error.
OR_AUTO: Final = GetPydanticSchema(
    lambda source, handler: core_schema.no_info_wrap_validator_function(
        lambda value, check: value if value == AUTO else check(value),
        handler(source),
        serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
    ),
    lambda schema, handler: {"anyOf": [{"const": AUTO}, handler(schema)]},
)
# From so many GiB on: `masks.points_per_batch`, and GiB of `captions.cache_bytes`. A card reports up to a tenth less
# than its name says. Source: tests/pipeline/test_card_memory.py adds up weights, caches and passes.
_CARDS: Final = {125: (64, 32), 70: (64, 16), 38: (64, 8), 21.5: (32, 4), 0: (8, 2)}
# The number of slots that a run in fixed shapes was begun with, among the versions of its identity.
SLOTS: Final = "pseudoris.slots"
# Values by setting, by section.
Choices = Mapping[str, Mapping[str, Any]]


def choices_of_card(total_bytes: float, *, has_bfloat16: bool) -> Choices:
    """Return what `auto` is on a card of this memory, as its driver reports it, but for `decoder_choices`."""
    points, cache = next(chosen for least, chosen in _CARDS.items() if total_bytes >= least * 2**30)
    return {
        "masks": {"points_per_batch": points},
        "captions": {"cache_bytes": cache * 2**30},
        # Float16 is never chosen: nothing proves yet that a model stays right in it.
        "compute": {"precision": "bfloat16" if has_bfloat16 else "float32"},
    }


def decoder_choices(decoder: str) -> Choices:
    """Return what `auto` is in `captions` under the decoder that a card has; the name is empty for `vlm`.

    The tree takes over from fixed shapes with these settings too: in it other crops change bits and take memory, so
    each image is alone.
    """
    together = crops_in_fixed_shapes(AUTO) if decoder == "static" else 1
    return {"captions": {"crops_together": together, "decoder": decoder or AUTO}}


def crops_in_fixed_shapes(setting: int | str) -> int:
    """Return how many crops fixed shapes caption together: `captions.crops_together`, unless that is 1 or `auto`.

    1 is meant for the tree. Here no neighbour changes a bit, so the crops of sixteen images of ten masks and four kinds
    are together, 1.4 GB of pixels and encodings.
    """
    return setting if isinstance(setting, int) and setting > 1 else 640
