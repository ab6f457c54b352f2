"""What a model of the configuration tree leaves out when it is serialised."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SerializerFunctionWrapHandler, model_serializer

from pseudoris.schemas.frozen import FrozenModel, without_defaults


class Section(FrozenModel):
    """`rule` and `kinds` are newer than some runs, which did what the defaults say."""

    tau: float = 1.0
    rule: str = "plain"
    kinds: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, handler(self), "rule", "kinds")


@pytest.mark.parametrize("mode", ["json", "python"])
def test_a_later_key_is_left_out_at_its_default(mode):
    assert Section(rule="plain").model_dump(mode=mode) == {"tau": 1.0}


@pytest.mark.parametrize("mode", ["json", "python"])
def test_a_later_key_is_serialised_with_any_other_value(mode):
    assert Section(kinds=("a",)).model_dump(mode=mode).keys() == {"tau", "kinds"}
