"""What others read of a run, and what becomes a run: datasets for torch, exports, imports, exclusions.

Called by `cli`, `training` and users. A run is read by its receipts and never changed. Imports no Ray and no model.
"""

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import interchange` would find this folder and load a second copy of every module.
    raise ImportError("'interchange' is not a package of its own: import pseudoris.interchange", name=__name__)

from typing import Literal

# Both types are defined here, because the command line needs them before it loads `imports`, which takes a second.
ImportFormat = Literal["refer", "grefcoco", "coco", "phrasecut", "reasonseg", "label-studio"]
# Masks and sizes of an annotation are in one of two frames: the upright image, or the image as its file stores it.
Orientation = Literal["upright", "stored"]
