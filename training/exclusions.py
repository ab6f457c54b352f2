"""The place of `python -m pseudoris.interchange.exclusions` up to 0.5: old commands still run it."""

import sys

from pseudoris.interchange.exclusions import main

if __name__ == "__main__":
    sys.exit(main())
