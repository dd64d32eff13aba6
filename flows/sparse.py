"""Sections with every field optional: what a flow parameter may hold.

Prefect replaces whole parameters, so a deployment stores a recipe's name only, and a section that
is given holds only what it changes. Bounds, choices and meanings stay, for the UI's form. A field
left out, or null, has the recipe's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, create_model

from lorapar_core.config import Section


def sparse(section: type[Section]) -> type[BaseModel]:
    """`section` with all fields optional and unset."""
    fields: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        optional = info._copy()
        optional.default, optional.default_factory = None, None
        optional.annotation = cast(Any, info.annotation) | None
        fields[name] = (optional.annotation, optional)
    return create_model(
        section.__name__.removesuffix("Config") + "Fields",
        __config__=ConfigDict(extra="forbid", protected_namespaces=()),
        __doc__=section.__doc__,
        **fields,
    )


def given(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections and fields that were set, as plain values for `load_recipe`."""
    found: dict[str, Any] = {}
    for name, value in sections.items():
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json", exclude_unset=True)
        if isinstance(value, Mapping):
            value = {field: v for field, v in value.items() if v is not None}
        elif isinstance(value, list):
            value = [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in value]
        if value is not None:
            found[name] = value
    return found
