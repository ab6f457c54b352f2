"""The ground floor: configuration, table schemas, run records and errors. It imports no other part of the project."""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("'schemas' is not a package of its own: import pseudoris.schemas", name=__name__)
