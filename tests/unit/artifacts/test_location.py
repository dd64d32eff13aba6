"""Which root a URL, or the environment, means."""

from pathlib import Path

import pytest

from artifacts import StoreError
from artifacts.location import store_root


@pytest.mark.parametrize(
    ("url", "environ", "root"),
    [
        ("/x/store", {"LORAPAR_STORE": "/y"}, "/x/store"),
        (Path("/x/store"), {}, "/x/store"),
        ("file:///x/a%20b#c", {}, "/x/a b#c"),
        ("file://localhost/x", {}, "/x"),
        (None, {"LORAPAR_STORE": "/y", "XDG_CACHE_HOME": "/c"}, "/y"),
        (None, {"LORAPAR_STORE": "", "XDG_CACHE_HOME": "/c"}, "/c/lorapar/store"),
        (None, {}, str(Path.home() / ".cache/lorapar/store")),
        ("~/store", {}, str(Path.home() / "store")),
        ("relative", {}, str(Path.cwd() / "relative")),
    ],
)
def test_root(url: str | Path | None, environ: dict[str, str], root: Path) -> None:
    assert store_root(url, environ) == Path(root)


@pytest.mark.parametrize(
    ("url", "named"),
    [("s3://bucket/x", "'s3'"), ("memory://", "'memory'"), ("file://host/x", "'host'")],
)
def test_what_cannot_be_opened_is_named(url: str | Path | None, named: str) -> None:
    with pytest.raises(StoreError, match=named) as caught:
        store_root(url, {})
    assert "\n" not in str(caught.value)
