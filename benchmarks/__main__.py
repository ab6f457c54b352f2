"""Run every benchmark with its defaults: `make bench`."""

from __future__ import annotations

from benchmarks import captioner, crops, filter, pipeline, stages

if __name__ == "__main__":
    stages.main([])
    crops.main([])
    captioner.main([])
    filter.main([])
    pipeline.main([])
