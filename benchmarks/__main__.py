"""Run every benchmark with its defaults: `make bench`."""

from __future__ import annotations

from benchmarks import captioner, stages

if __name__ == "__main__":
    stages.main([])
    captioner.main([])
