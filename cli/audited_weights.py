"""What `pseudoris calibrate --audit` reads: an audit's verdicts as the fit takes them."""

from __future__ import annotations

import numpy as np

from pseudoris.audit.applied_run import apply_to
from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.judged_pairs import join_answers
from pseudoris.cli.console import report
from pseudoris.cli.options import local_folder
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.calibration import Calibration, judged_images
from pseudoris.training.calibration.audited_fit import AuditedVerdict, around_label_free


def audited_calibration(
    location: RunLocation, audit: str, *, wanted_yield: float, max_images: int | None = None
) -> Calibration:
    """Return weights around the label-free ones, by an audit's verdicts, and the bound for a yield.

    Raises:
        ConfigError: The audit is of another run, or its verdicts are all right, or all wrong.
        TransientError: Storage failed.
    """
    folder = AuditFolder.open(local_folder(audit))
    verdicts = _verdicts(folder, location)
    images = judged_images(location, None, max_images=max_images)
    try:
        found, num_used = around_label_free(images, verdicts, wanted_yield=wanted_yield)
    except ValueError as error:
        raise ConfigError(f"the audit at {audit}: {error}. Judge more pairs, those that are not kept too") from error
    report("fitted", f"on {num_used:,} verdicts of {audit}", "green")
    return found


def _verdicts(folder: AuditFolder, location: RunLocation) -> dict[tuple[str, str], AuditedVerdict]:
    applied = apply_to(location, folder)
    judged = applied.judged(join_answers(folder, folder.answers()))
    right, weights = judged.right, judged.weights
    masks, texts = (folder.pairs[name].to_pylist() for name in ("mask_ids", "text"))
    rows = np.flatnonzero((weights > 0) & ~np.isnan(right) & (judged.mask >= 0))
    return {(masks[row][0], texts[row]): AuditedVerdict(float(right[row]), float(weights[row])) for row in rows}
