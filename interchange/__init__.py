"""What others read of a run, and what becomes a run: datasets for torch, exports, imports, exclusions.

Called by `cli`, `training` and users. A run is read by its receipts and never changed. Imports no Ray and no model.
"""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'interchange' is not a package of its own: import pseudoris.interchange", name=__name__)

from typing import Literal

# Both types stand here because the command line needs them before it loads `imports`, which takes a second.
ImportFormat = Literal["refer", "grefcoco", "coco", "phrasecut", "reasonseg", "label-studio"]
# The frame of an annotation's masks and sizes: the upright image, or the image as stored in its file.
Orientation = Literal["upright", "stored"]
