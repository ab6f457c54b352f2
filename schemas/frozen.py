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


def without_defaults(model: BaseModel, tree: dict[str, Any], *later_keys: str) -> dict[str, Any]:
    """Return a serialised model without those of `later_keys` that have their default.

    For keys that are newer than some runs. Their default must be what those runs did, and stay it: the header of such
    a run has no such key, and is read with the default. A preset sets what is better. So the older run has the same
    identity and hash as one that sets the default.

    Args:
        model: The model that is serialised.
        tree: What the handler of its `model_serializer` returns, in either mode.
        later_keys: Names of its fields.
    """
    fields = type(model).model_fields
    dropped = {key for key in later_keys if getattr(model, key) == fields[key].get_default(call_default_factory=True)}
    return {key: value for key, value in tree.items() if key not in dropped}
