"""The ground floor: configuration, table schemas, run records and errors. It imports no other part of the project."""

if not __name__.startswith("pseudoris."):
    # In a clone's root Python would find this folder under its bare name and load a second copy of every module.
    raise ImportError("import pseudoris.schemas: 'schemas' alone is no package", name=__name__)
