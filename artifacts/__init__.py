"""A small content-addressed store: what was computed once is found again, whole, or not at all.

Standard library only, and quick to import: `plan` and a fully cached `run` pay for little else.
"""

from artifacts.canonical import action_key, canonical_json
from artifacts.errors import CorruptObject, MissingObject, StoreError
from artifacts.records import Record, Ref
from artifacts.store import Store
from artifacts.verify import VerifyReport

__all__ = [
    "CorruptObject",
    "MissingObject",
    "Record",
    "Ref",
    "Store",
    "StoreError",
    "VerifyReport",
    "action_key",
    "canonical_json",
]
