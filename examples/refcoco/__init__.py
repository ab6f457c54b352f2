"""RefCOCO, RefCOCO+ and RefCOCOg in one command: annotate, train, evaluate, one table."""
