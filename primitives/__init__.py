"""Small libraries below every room: errors, strangers' files and uris, masks as run lengths, English, keyed draws."""

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import primitives` would find this folder and load a second copy of every module.
    raise ImportError("'primitives' is not a package of its own: import pseudoris.primitives", name=__name__)
