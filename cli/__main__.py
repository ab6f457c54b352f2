"""Says the form of the command that works: `python -m pseudoris`."""

import sys

sys.stderr.write("error: `python -m cli` is `python -m pseudoris` now, or `pseudoris`\n")
sys.exit(2)
