"""Flow parameters: every field optional, bounds and meanings kept, only what was set is given."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from flows import deployed
from flows.sparse import given, sparse
from lorapar_core.config import (
    DataConfig,
    EvaluationConfig,
    GrpoConfig,
    ImportanceConfig,
    LoraConfig,
    ModelConfig,
    PartitionConfig,
    PeftConfig,
    Recipe,
    RuntimeConfig,
    Section,
    SftConfig,
    TeacherConfig,
    VotingConfig,
)

SECTIONS = (
    DataConfig,
    VotingConfig,
    ModelConfig,
    LoraConfig,
    PeftConfig,
    ImportanceConfig,
    PartitionConfig,
    SftConfig,
    GrpoConfig,
    EvaluationConfig,
    RuntimeConfig,
)
Fields = sparse(PartitionConfig)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_nothing_is_required_and_nothing_is_preset(section: type[Section]) -> None:
    empty = sparse(section)()
    assert set(type(empty).model_fields) == set(section.model_fields)
    assert set(empty.model_dump().values()) == {None}
    assert given({"section": empty}) == {"section": {}}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_the_original_is_left_as_it_was(section: type[Section]) -> None:
    before = {name: repr(info) for name, info in section.model_fields.items()}
    sparse(section)
    assert {name: repr(info) for name, info in section.model_fields.items()} == before


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        (PartitionConfig, {"theta": 0}),
        (PartitionConfig, {"theta": 1.01}),
        (PartitionConfig, {"alpha": -0.1}),
        (PartitionConfig, {"theta": "most"}),
        (PartitionConfig, {"gamma": 1}),
        (LoraConfig, {"r": 0}),
        (LoraConfig, {"modules": 3}),
        (SftConfig, {"schedule": "sawtooth"}),
        (GrpoConfig, {"group_size": 1}),
        (GrpoConfig, {"rewards": {"correctness": -1}}),
        (RuntimeConfig, {"device": "abacus"}),
        (ModelConfig, {"base": ""}),
    ],
)
def test_bounds_choices_and_unknown_fields_are_refused_as_before(
    section: type[Section], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        sparse(section)(**fields)


def test_given_returns_what_was_set_and_nothing_else() -> None:
    sections = {
        "partition": Fields(theta=0.5),
        "sft": sparse(SftConfig)(),
        "grpo": None,
        "stages": None,
        "teachers": [TeacherConfig(name="a", provider="local")],
    }
    found = given(sections)
    assert set(found) == {"partition", "sft", "teachers"}
    assert found["partition"] == {"theta": 0.5}
    assert found["sft"] == {}
    assert found["teachers"][0]["name"] == "a"


def test_a_value_that_is_the_default_is_given_if_it_was_set() -> None:
    assert given({"partition": Fields(theta=0.9)}) == {"partition": {"theta": 0.9}}


def test_null_means_the_recipes_value() -> None:
    assert given({"partition": Fields(theta=None, alpha=0.2)}) == {"partition": {"alpha": 0.2}}
    assert given({"partition": Fields(theta=None)}) == {"partition": {}}
    assert given({"partition": {"theta": None, "alpha": 0.2}}) == {"partition": {"alpha": 0.2}}


@pytest.mark.parametrize("value", [0, 0.0, False, "", {}])
def test_an_empty_value_is_a_value(value: object) -> None:
    """`alpha: 0`, `base: false`, `columns: {}` say something, unlike null."""

    class Free(Section):
        field: object = "usual"

    assert given({"section": sparse(Free)(field=value)}) == {"section": {"field": value}}


def test_an_empty_list_is_given_and_not_taken_for_nothing() -> None:
    """`teachers: []` is a mistake that the recipe names; it must not run the recipe's teachers."""
    assert given({"teachers": [], "stages": []}) == {"teachers": [], "stages": []}


# The flow's form


def schema() -> dict[str, Any]:
    parameters = deployed.lorapar.parameters.model_dump()
    return {**parameters["properties"], "definitions": parameters["definitions"]}


def test_every_section_is_a_parameter_of_its_own() -> None:
    sections = set(Recipe.model_fields) - {"name", "description"}
    assert set(schema()) == {"recipe", "definitions", *sections}
    assert deployed.lorapar.parameters.required == []


def test_the_form_shows_bounds_and_meaning_of_theta() -> None:
    theta = schema()["definitions"]["PartitionFields"]["properties"]["theta"]
    number = next(choice for choice in theta["anyOf"] if choice["type"] == "number")
    assert (number["exclusiveMinimum"], number["maximum"]) == (0, 1)
    assert {"type": "null"} in theta["anyOf"]
    assert theta["default"] is None
    assert theta["description"] == PartitionConfig.model_fields["theta"].description


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_the_form_tells_every_fields_meaning(section: type[BaseModel]) -> None:
    name = section.__name__.removesuffix("Config") + "Fields"
    shown = schema()["definitions"][name]["properties"]
    assert {key: field["description"] for key, field in shown.items()} == {
        key: info.description for key, info in section.model_fields.items()
    }


def test_the_form_offers_choices() -> None:
    shown = schema()["definitions"]["LoraFields"]["properties"]["init"]
    assert shown["anyOf"][0]["enum"] == ["gaussian", "pissa", "olora", "default"]


def test_every_parameter_is_described() -> None:
    assert [
        name for name, p in schema().items() if name != "definitions" and not p.get("description")
    ] == []
