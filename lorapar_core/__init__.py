"""LoRA-PAR: the method itself. Objects in, objects and files out; no Prefect and no store.

Importing this package, or `lorapar_core.config`, imports nothing heavy.
"""

__version__ = "0.1.0"
