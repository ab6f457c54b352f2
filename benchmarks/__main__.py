"""Run every benchmark with its defaults: `make bench`."""

from __future__ import annotations

from benchmarks import captioner, crops, filter, masks, pipeline, stages

if __name__ == "__main__":
    stages.main([])
    masks.main([])
    crops.main([])
    captioner.main([])
    filter.main([])
    pipeline.main([])
