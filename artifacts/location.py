"""Where the store is: a path or ``file://`` URL, else $LORAPAR_STORE, else the user's cache."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from artifacts.errors import StoreError

VARIABLE = "LORAPAR_STORE"


def store_root(url: str | Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the absolute local path that `url`, or without it the environment, means.

    Raises:
        StoreError: a URL with another scheme than ``file``, or with a host.
    """
    if url is None or url == "":
        url = environ.get(VARIABLE) or _default(environ)
    if isinstance(url, str) and "://" in url:
        url = _local(url)
    # Unlike Path.expanduser, this leaves an unknown ~name as it is.
    return Path(os.path.expanduser(url)).absolute()  # noqa: PTH111


def _default(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache, "lorapar", "store")


def _local(url: str) -> Path:
    scheme, _, rest = url.partition("://")
    if scheme != "file":
        raise StoreError(
            f"store {url!r} has the scheme {scheme!r}, which this version cannot open: "
            f"give a local path or a file:// URL, or set {VARIABLE} to one"
        )
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise StoreError(f"store {url!r} names the host {host!r}: write file:///path")
    return Path(unquote(slash + path))
