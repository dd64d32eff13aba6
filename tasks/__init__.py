"""One file a stage: what it is keyed by, and what it reads. `stage.py` runs any of them."""
