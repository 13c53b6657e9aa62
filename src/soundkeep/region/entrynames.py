"""Names of files in an archive: safe to extract anywhere, each there once. Pure. Contract §2."""

from __future__ import annotations

import re
import unicodedata

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn text, halves of characters; and `\\`, a folder on Windows."""

_PLAIN = re.compile(r"[A-Za-z0-9+][A-Za-z0-9+:._ ()-]{0,199}")
"""What is safe at first sight: most names are."""

_LONGEST = 200
"""Bytes of one folder or file name; most file systems take 255, and a number may be added."""

_MOST_FOLDERS = 32
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,10}")


class Names:
    """The names of one archive, given out one by one."""

    def __init__(self) -> None:
        self._files: set[int] = set()
        self._folders: set[int] = set()
        self._next: dict[int, int] = {}

    def give(self, wanted: str, otherwise: str) -> str:
        """The wanted name made safe (if nothing is left of it: the other one), and free.

        What is taken, in whatever case, gets ` (2)`, ` (3)` and so on before its extension.
        """
        *folders, file = safe(wanted, otherwise).split("/")
        path = ""
        for folder in folders:
            path = self._free(path, folder, taken=(self._files,))
            self._folders.add(_key(path))
            path += "/"
        path = self._free(path, file, taken=(self._files, self._folders))
        self._files.add(_key(path))
        return path

    def _free(self, before: str, name: str, *, taken: tuple[set[int], ...]) -> str:
        path = before + name
        key = _key(path)
        if not any(key in each for each in taken):
            return path
        stem, extension = _split(name)
        number = self._next.get(key, 2) if len(taken) > 1 else 2  # a folder is found again
        while True:
            path = f"{before}{stem} ({number}){extension}"
            number += 1
            if not any(_key(path) in each for each in taken):
                break
        if len(taken) > 1:
            self._next[key] = number
        return path


def safe(wanted: str, otherwise: str) -> str:
    """A relative path without `..`, of names that file systems take; `:` and `+` stay."""
    if _PLAIN.fullmatch(wanted):
        return wanted
    names = [_UNSAFE.sub("_", name) for name in wanted.split("/")]
    kept = [_short(name) for name in names if name.strip() not in ("", ".", "..")]
    return "/".join([*kept[:-1][:_MOST_FOLDERS], *kept[-1:]]) or otherwise


def _short(name: str) -> str:
    if len(name.encode()) <= _LONGEST:
        return name
    stem, extension = _split(name)
    room = _LONGEST - len(extension)
    return stem.encode()[:room].decode(errors="ignore") + extension


def _split(name: str) -> tuple[str, str]:
    """A file's name before its extension, and that."""
    at = name.rfind(".")
    if at > 0 and _EXTENSION.fullmatch(name, at):
        return name[:at], name[at:]
    return name, ""


def _key(path: str) -> int:
    """What is the same for names that some file system takes for one."""
    plain = path if path.isascii() else unicodedata.normalize("NFC", path)
    return hash(plain.casefold())
