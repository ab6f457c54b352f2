"""What every model of the configuration tree is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]


class FrozenModel(BaseModel):
    """A frozen model that refuses unknown keys; every model of the tree is one."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def without_none(tree: dict[str, Any], *sections: str) -> dict[str, Any]:
    """Return a serialised model without those of `sections` that are None.

    Runs from before a section existed have the identity and the hash of those that leave it off.
    """
    return {key: value for key, value in tree.items() if key not in sections or value is not None}
