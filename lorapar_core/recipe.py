"""Read a recipe: a shipped name or a YAML file, sparse overrides merged in, one clear error line.

Overrides are sections that hold only the fields to change; a field that is itself a mapping or a
list (`grpo.rewards`, `teachers`) is replaced whole.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from lorapar_core.config import Recipe, Section
from lorapar_core.data.rows import SUFFIXES, suffix
from lorapar_core.data.sources import is_file
from lorapar_core.errors import ConfigError


def load_recipe(
    source: str | Path, *, recipes: Path, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe named `source` in the directory `recipes`, or in the YAML file `source`.

    Raises:
        ConfigError: no such recipe, bad YAML, an unknown field, or a value out of bounds.
    """
    path = find_recipe(source, recipes=recipes)
    try:
        fields = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: a date with month 13
        raise ConfigError(f"{path} can't be read as YAML: {_one_line(error)}") from error
    if not isinstance(fields, dict):
        raise ConfigError(
            f"{path} holds no sections; expected YAML like 'partition: {{theta: 0.9}}'"
        )
    fields = {"name": _name_of(path), **_anchored(fields, path.resolve().parent)}
    return parse_recipe(merge(fields, overrides or {}))


def _anchored(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields with relative paths made absolute: a recipe's paths go by its own folder.

    A data file is told by its suffix, a GGUF file by `gguf:` and `.gguf`; a model's directory by
    standing there, for it may be a hub id.
    """
    anchored = dict(fields)
    if isinstance(data := fields.get("data"), Mapping):
        found = {
            k: _data_path(v, folder) for k, v in data.items() if k in ("source", "test_source")
        }
        anchored["data"] = {**data, **found}
    if isinstance(evaluation := fields.get("evaluation"), Mapping):
        anchored["evaluation"] = _anchored_evaluation(evaluation, folder)
    if isinstance(model := fields.get("model"), Mapping) and "base" in model:
        anchored["model"] = {**model, "base": _model_path(model["base"], folder)}
    if isinstance(teachers := fields.get("teachers"), list):
        anchored["teachers"] = [_anchored_teacher(teacher, folder) for teacher in teachers]
    return anchored


def _anchored_evaluation(evaluation: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    benchmarks = evaluation.get("benchmarks")
    if not isinstance(benchmarks, list):
        return dict(evaluation)
    anchored = [
        {k: _data_path(v, folder) if k in ("source", "shots_source") else v for k, v in b.items()}
        if isinstance(b, Mapping)
        else b
        for b in benchmarks
    ]
    return {**evaluation, "benchmarks": anchored}


def _anchored_teacher(teacher: Any, folder: Path) -> Any:
    if not isinstance(teacher, Mapping) or "model" not in teacher:
        return teacher
    paths = {"local": _model_path, "replay": _data_path}
    path = paths.get(str(teacher.get("provider")))
    return {**teacher, "model": path(teacher["model"], folder)} if path else teacher


def _data_path(text: Any, folder: Path) -> Any:
    if not isinstance(text, str) or "://" in text or text.startswith("~"):
        return text
    return str(folder / text) if is_file(text) and suffix(text) in SUFFIXES else text


def _model_path(text: Any, folder: Path) -> Any:
    if not isinstance(text, str) or text.startswith("~"):
        return text
    if text.startswith("gguf:"):
        path = text.removeprefix("gguf:")
        return f"gguf:{folder / path}" if path.endswith(".gguf") and path[0] != "~" else text
    there = os.path.isfile(folder / text / "config.json")  # noqa: PTH113  takes any length
    return str(folder / text) if text and there else text


def _name_of(path: Path) -> str:
    """The file's name as a recipe may be called: "my recipe.yaml" -> "my-recipe"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "recipe"


def find_recipe(source: str | Path, *, recipes: Path) -> Path:
    """The file of a shipped recipe's name, or of a path.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError(f"recipe file {path} doesn't exist; give an existing .yaml file")
    shipped = {file.stem: file for file in sorted(recipes.glob("*.yaml"))}
    if str(source) in shipped:
        return shipped[str(source)]
    raise ConfigError(
        f"no recipe {str(source)!r}{did_you_mean(str(source), shipped)}; there are "
        f"{', '.join(shipped)}, or give a .yaml file"
    )


def merge(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with `overrides` over them: sections field by field, everything else whole."""
    merged = dict(fields)
    for section, value in overrides.items():
        old = merged.get(section)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[section] = {**old, **value}
        else:
            merged[section] = value
    return merged


def parse_recipe(fields: Mapping[str, Any]) -> Recipe:
    """A checked recipe out of plain values.

    Raises:
        ConfigError: one line that names the first wrong field, its value, and what was expected.
    """
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe(error)) from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`section.field=value` lines (values as YAML) as sparse sections.

    Raises:
        ConfigError: a line of another form.
    """
    sections: dict[str, Any] = {}
    for line in assignments:
        target, equals, text = line.partition("=")
        section, dot, name = target.strip().partition(".")
        if not equals or not section or (dot and not name):
            raise ConfigError(
                f"--set {line!r} can't be read; expected section.field=value, "
                "such as partition.theta=0.8"
            )
        value = _yaml_value(text)
        if dot:
            fields = sections.setdefault(section, {})
            if not isinstance(fields, dict):
                raise ConfigError(
                    f"--set {line!r} contradicts {section}={fields!r} before it; give one of them"
                )
            fields[name] = value
        else:
            sections[section] = value
    return sections


def _yaml_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:  # ValueError: a date with month 13
        raise ConfigError(f"value {text!r} can't be read as YAML: {_one_line(error)}") from error


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error as one line; unknown fields come first."""
    problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = problems[0]
    place = [str(part) for part in first["loc"] if part != "[key]"]  # pydantic's word for a key
    where = ".".join(place) or "recipe"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        word = str(first["loc"][-1])
        hint = did_you_mean(word, _fields_at(first["loc"][:-1]))
        if len(first["loc"]) == 1:
            hint = _of_a_section(word) or hint
        return f"{where}: unknown field{hint}{more}"
    said = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] in ("value_error", "missing") else f"{first['input']!r} is wrong: "
    return f"{where}: {shown}{_one_line(said)}{more}"


def _of_a_section(word: str) -> str:
    """`, did you mean SECTION.FIELD?`, where just one section has a field of this name."""
    sections = {
        name: section
        for name, info in Recipe.model_fields.items()
        if (section := _section_of(info.annotation))
    }
    found = [name for name, section in sections.items() if word in section.model_fields]
    return f", did you mean {found[0]}.{word}?" if len(found) == 1 else ""


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section at `location` (list positions are passed over)."""
    model: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        model = _section_of(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = getattr(annotation, "__args__", ())
    return next((found for a in inner if (found := _section_of(a))), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean X?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
