"""`python -m pseudoris`: the command line where the scripts folder is not on the path."""

import sys

try:
    from pseudoris.cli.main import main
except ModuleNotFoundError as error:
    if error.name != "pseudoris.cli":
        raise
    # In a clone's root Python finds this folder before an installed package, and the rest only if that is editable.
    sys.stderr.write("error: this folder is a clone that is not installed: run `make install`, or use another folder\n")
    sys.exit(2)

if __name__ == "__main__":
    main()
