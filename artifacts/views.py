"""A directory object as a directory: ``views/<digest>/`` made of hard links to its members.

A view can always be made again, so it is never trusted: each time it is asked for, its files are
compared with the manifest. The links share their inodes with the objects, which are mode 0444.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from artifacts.digest import Content, check_digest, walk_files
from artifacts.durable import temporary
from artifacts.intake import NO_HARD_LINK
from artifacts.lock import locked
from artifacts.objects import Objects


class Views:
    """The views of the store at `root`; making one of these touches nothing."""

    def __init__(self, root: Path, objects: Objects) -> None:
        self._objects = objects
        self._views = root / "views"
        self._locks = root / "locks"
        self._tmp = root / "tmp"

    def path(self, digest: str) -> Path:
        """Return a directory with exactly the members of the object, every one verified.

        Raises:
            MissingObject, CorruptObject: the manifest or a member.
            StoreError: the object is not a directory.
            OSError: there is no whole view and none can be made.
        """
        members = self._objects.members(digest)
        for content in members.values():
            self._objects.verified(content.digest)
        view = self._views / digest
        if not self._is_whole(view, members):
            with locked(self._locks / f"view-{digest}.lock"):
                if not self._is_whole(view, members):
                    self._build(view, members)
        return view

    def remove(self, digest: str) -> None:
        """Delete the view of this object, if there is one.

        Raises:
            OSError: the disk refuses.
        """
        with suppress(FileNotFoundError):
            _remove(self._views / check_digest(digest))

    def _is_whole(self, view: Path, members: Mapping[str, Content]) -> bool:
        try:
            names = set(walk_files(view))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return names == set(members) and all(
            self._objects.matches(view / name, content.digest) for name, content in members.items()
        )

    def _build(self, view: Path, members: Mapping[str, Content]) -> None:
        partial, former = temporary(self._tmp), temporary(self._tmp)
        try:
            for name, content in members.items():
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(self._objects.path(content.digest), target)
            view.parent.mkdir(exist_ok=True)
            if os.path.lexists(view):  # not whole, so nobody can be using it rightly
                view.rename(former)
            partial.rename(view)
        finally:
            for left in (partial, former):
                _remove(left)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        shutil.copyfile(source, target)
        target.chmod(0o444)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
