"""Opens what a path or uri names: disks, buckets, other stores, behind one protocol. A write is atomic and durable."""

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import files` would find this folder and load a second copy of every module.
    raise ImportError("'files' is not a package of its own: import pseudoris.files", name=__name__)
