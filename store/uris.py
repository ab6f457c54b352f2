"""The refusal of uris that carry a secret, for those who write: the rule itself stands in `schemas.uris`."""

from schemas.uris import refuse_secrets

__all__ = ["refuse_secrets"]
