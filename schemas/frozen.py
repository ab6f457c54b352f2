"""The base class of configurations and records in most rooms: frozen, and an unknown key is refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NonNegative = Annotated[float, Field(ge=0.0)]
UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]


class FrozenModel(BaseModel):
    """A frozen model that rejects unknown keys. Every model in the configuration tree is one."""

    # A run stores its configuration as JSON, which has no infinity and no NaN.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
