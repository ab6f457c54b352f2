"""The base class of every model in the configuration tree."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]


class FrozenModel(BaseModel):
    """A frozen model that rejects unknown keys. Every model in the configuration tree is one."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def without_none(tree: dict[str, Any], *sections: str) -> dict[str, Any]:
    """Return a serialised model without those of `sections` that are None.

    So a run that was made before a section existed has the same identity and hash as one that leaves it off.
    """
    return {key: value for key, value in tree.items() if key not in sections or value is not None}
