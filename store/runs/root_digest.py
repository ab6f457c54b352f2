"""The root digest of a run: one sha256 over what was asked and what came out.

It covers SOURCE, the method, the identity, the plan, and for each committed shard the content of its parts, its counts
and its degraded or mixed settings. It leaves out when and where the run worked: times, placement, nodes, attempts,
generations, and the place of its parent. So two runs that wrote the same bytes have the same root, whatever machines
they used and whatever went wrong on the way; a person who has the root of a run can compare any copy of it. What is
left out is still covered by the digests of the header and of the receipts themselves.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pseudoris.schemas.run_records import Receipt, RunHeader


class RootDigest:
    """Computes the root digest from the header and the latest receipts, one by one in the order of their shards."""

    def __init__(self, header: RunHeader) -> None:
        """Begin with the run's header; its plan includes the extensions."""
        self._digest = hashlib.sha256()
        self._add(
            {
                "source": header.source,
                "origin": header.origin,
                "method": header.config.method(),
                "identity": header.identity.model_dump(mode="json"),
                "plan": [(part.rows, part.sha256) for part in header.plan_parts],
                "images": [header.num_images, header.num_repeated, header.num_shards],
                **header.model_dump(mode="json", include={"audits", "exclusions"}),
            }
        )

    def add(self, receipt: Receipt) -> None:
        """Add a shard by its latest receipt."""
        self._add(
            {
                "shard": receipt.shard,
                "parts": {table: [part.rows, part.sha256] for table, part in receipt.parts.items()},
                "counts": receipt.counts.model_dump(),
                "degraded": receipt.degraded,
                "mixed": receipt.mixed,
            }
        )

    def hexdigest(self) -> str:
        """Return the digest of all that was added, 64 hex digits."""
        return self._digest.hexdigest()

    def _add(self, tree: dict[str, Any]) -> None:
        self._digest.update(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode() + b"\n")
