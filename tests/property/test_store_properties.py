"""Laws of the store: one value, one text; what was published is what is read."""

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import Store, action_key, canonical_json
from artifacts.digest import Content, decode_manifest, encode_manifest

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)
names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,11}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
contents = st.builds(Content, digests, st.integers(0, 2**60))
trees = st.dictionaries(
    names,
    st.binary(max_size=64) | st.dictionaries(names, st.binary(max_size=64), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def typed(value: object) -> object:
    """Tell 1, 1.0 and True apart, and 0.0 and -0.0, which `==` does not."""
    if isinstance(value, dict):
        return {key: typed(member) for key, member in value.items()}
    if isinstance(value, list):
        return [typed(member) for member in value]
    return type(value), repr(value)


def shuffled(value: object, random: Random) -> object:
    if isinstance(value, dict):
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key], random) for key in keys}
    if isinstance(value, list):
        return tuple(shuffled(member, random) for member in value)
    return value


@given(values)
def test_canonical_json_comes_back_with_its_types(value: Any) -> None:
    assert typed(json.loads(canonical_json(value))) == typed(value)


@given(values, st.randoms())
def test_canonical_json_knows_no_order(value: Any, random: Random) -> None:
    assert canonical_json(shuffled(value, random)) == canonical_json(value)


@given(values, values)
def test_canonical_json_is_one_to_one(left: Any, right: Any) -> None:
    assert (canonical_json(left) == canonical_json(right)) == (typed(left) == typed(right))


@given(st.dictionaries(texts, values), st.dictionaries(names, digests), st.randoms())
def test_action_key_knows_no_order(
    config: dict[str, Any], inputs: dict[str, str], random: Random
) -> None:
    one = action_key(stage="s", version=1, config=config, inputs=inputs)
    two = action_key(
        stage="s",
        version=1,
        config=shuffled(config, random),
        inputs=shuffled(inputs, random),
    )
    assert one == two


@given(st.dictionaries(names, contents))
def test_a_manifest_comes_back(members: dict[str, Content]) -> None:
    assert decode_manifest(encode_manifest(members)) == members


@settings(max_examples=25, deadline=None)  # each example writes to a disk
@given(trees, st.booleans(), st.dictionaries(texts, values))
def test_what_is_published_is_what_is_read(
    tree: dict[str, Any], inside: bool, config: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder, "store"))
        key = action_key(stage="s", version=1, config=config, inputs={})
        source = (store.scratch(key) if inside else Path(folder)) / "source"
        write(source, tree)
        record = store.publish(
            source,
            key=key,
            stage="s",
            name="s",
            version=1,
            config=config,
            inputs={},
            provenance={},
        )
        again = Store.open(store.root, create=False)
        assert again.lookup(key) == record
        assert typed(dict(record.config)) == typed(config)
        assert {role: read(again.path(ref)) for role, ref in record.outputs.items()} == tree
        assert again.verify().ok


def write(path: Path, tree: dict | bytes) -> None:
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    path.mkdir()
    for name, member in tree.items():
        write(path / name, member)


def read(path: Path) -> dict | bytes:
    if path.is_dir():
        return {member.name: read(member) for member in path.iterdir()}
    return path.read_bytes()
