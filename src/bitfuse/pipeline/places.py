"""Files here and, through fsspec, in object storage: one small face for both."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from bitfuse.errors import InputError, MissingDependency
from bitfuse.features.images import MAX_BYTES

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Place:
    """A file or folder by its path or, where `remote`, its URL."""

    path: str

    @property
    def remote(self) -> bool:
        """Whether it is a URL."""
        return _SCHEME.match(self.path) is not None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> str:
        """The folder that holds it."""
        return self.path.rpartition("/")[0] if self.remote else str(Path(self.path).parent)

    def inside(self, name: str) -> Place:
        """The place of this relative path in this folder."""
        return Place(f"{self.path.rstrip('/')}/{name}")

    def is_file(self) -> bool:
        """Whether there is a file."""
        return bool(self._fs[0].isfile(self._fs[1])) if self.remote else Path(self.path).is_file()

    def is_folder(self) -> bool:
        """Whether there is a folder."""
        return bool(self._fs[0].isdir(self._fs[1])) if self.remote else Path(self.path).is_dir()

    def names(self) -> list[str]:
        """The names of the files in this folder, sorted."""
        if self.remote:
            found = self._fs[0].ls(self._fs[1], detail=True)
            return sorted(PurePosixPath(one["name"]).name for one in found if one["type"] == "file")
        return sorted(one.name for one in os.scandir(self.path) if one.is_file())

    def below(self) -> Iterator[tuple[str, str]]:
        """Of a remote folder: every file under it, by its path relative to the folder, and what changes with it."""
        fs, top = self._fs
        for full, facts in sorted(fs.find(top, detail=True).items()):
            yield full.removeprefix(top).lstrip("/"), _remote_facts(facts)

    def facts(self) -> str:
        """Of a file: what changes when its content does."""
        if self.remote:
            return _remote_facts(self._fs[0].info(self._fs[1]))
        status = os.stat(self.path)
        return f"{status.st_size} {status.st_mtime_ns}"

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The file, to be read and sought in.

        Raises:
            InputError: it cannot be opened.
        """
        try:
            file = self._fs[0].open(self._fs[1], "rb") if self.remote else open(self.path, "rb")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{self.path} cannot be opened: {error}") from error
        with file:
            yield file

    def fetch(self) -> bytes:
        """The bytes of a file of at most 256 MiB."""
        with self.opened() as file:
            try:
                return bytes(file.read(MAX_BYTES + 1))
            except OSError as error:
                raise InputError(f"{self.path} cannot be read: {error}") from error

    @cached_property
    def _fs(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise MissingDependency("fsspec", "remote", f"reading {self.path}") from error
        try:
            fs, path = fsspec.core.url_to_fs(self.path)
        except (ImportError, ValueError) as error:  # the package of this kind of storage is missing, or unknown
            raise InputError(f"{self.path} cannot be reached: {error}") from error
        return fs, str(path)


def _remote_facts(facts: dict[str, Any]) -> str:
    known = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "created", "md5Hash")
    return " ".join(f"{key}={facts[key]}" for key in known if key in facts)
