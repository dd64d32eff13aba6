"""Composition: the pipeline, the runners that carry it out, and the `lorapar` command."""
