"""Folders of pictures, walked with an account of whatever is not read."""

from __future__ import annotations

import os
from pathlib import Path

from shards.records import DataError
from shards.sources.common import is_picture, pictures_of, printable, some

SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
DOCUMENTS = (".csv", ".html", ".json", ".log", ".mat", ".md", ".pdf", ".py", ".rst", ".txt", ".xml", ".yaml", ".yml")
DOCUMENT_NAMES = ("license", "licence", "readme")


class Walk:
    """Lists the folders and pictures of a data set, and keeps account of whatever else lies among them.

    What operating systems and programs leave is no part of a data set and is ignored: names that begin with a dot
    (`.DS_Store`, `._0001.jpg`, `.git`), unless they are pictures, and SYSTEM_FILES. So are documents at the top.

    Args:
        root: Top of the data set; paths in `facts` begin there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._skipped: dict[str, list[str]] = {}
        self._documents: list[str] = []

    def folders(self, folder: Path, types: tuple[str, ...] = ()) -> list[str]:
        """Names of the folders, and of the files of `types`, in a folder; sorted, since a disk lists them in any order.

        Raises DataError where there is no such folder, or where a link in it leads nowhere or to a folder above.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: missing; unpack the data set again, or give another --source")
        names, dangling = [], []
        for name in sorted(os.listdir(folder)):
            path = folder / name
            if is_ignored(name):
                continue
            if name.lower().endswith(types):
                names.append(name)
            elif not path.is_dir():
                if path.is_symlink() and not path.exists():
                    dangling.append(path)
                else:
                    self.skip("pictures where folders belong", path)
            elif path.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
                raise DataError(f"{path}: a link to a folder above it; remove the link")
            else:
                names.append(name)
        if dangling:
            raise DataError(f"{some(dangling)}: a link that leads nowhere; restore its target, or remove the link")
        return names

    def pictures(self, folder: Path) -> list[str]:
        """Names of the pictures in a folder, as `pictures_of` gives them. Raises as it does."""
        names = pictures_of(folder)
        for name in sorted(set(os.listdir(folder)).difference(names)):
            self.skip("hidden pictures", folder / name)
        return names

    def skip(self, pictures: str, path: Path) -> None:
        """Note a file or folder that is not read; `pictures` is what to call it if it is a picture."""
        if is_ignored(path.name):
            return
        name = printable(str(path.relative_to(self._root)))
        if path.is_dir():
            self._skipped.setdefault("folders", []).append(f"{name}/")
        elif is_picture(path.name):
            self._skipped.setdefault(pictures, []).append(name)
        elif path.suffix.lower() not in DOCUMENTS and path.stem.lower() not in DOCUMENT_NAMES:
            self._skipped.setdefault("files of other types", []).append(name)
        elif path.parent != self._root:
            self._documents.append(name)

    def facts(self) -> dict[str, str]:
        """Number and first names of what was not read; empty where nothing was skipped.

        Documents have a fact of their own: no figure depends on them.
        """
        facts = {}
        if self._skipped:
            kinds = sorted(self._skipped.items())
            facts["skipped"] = "; ".join(f"{kind}: {len(names):,} ({some(names)})" for kind, names in kinds)
        if self._documents:
            facts["documents"] = f"{len(self._documents):,}, not read ({some(self._documents)})"
        return facts


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is one that an operating system or a program leaves everywhere."""
    if name.startswith("."):
        return name.startswith("._") or not is_picture(name)
    return name.lower() in SYSTEM_FILES
