"""Walk folders of pictures, and note the files that are not read."""

from __future__ import annotations

import os
from pathlib import Path

from shards.records import DataError
from shards.sources.common import is_picture, pictures_of, printable, some

SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
DOCUMENTS = (".csv", ".html", ".json", ".log", ".mat", ".md", ".pdf", ".py", ".rst", ".txt", ".xml", ".yaml", ".yml")
DOCUMENT_NAMES = ("license", "licence", "readme")


class Walk:
    """Lists the folders and pictures of a data set, and notes all other files among them.

    Files of operating systems and programs are ignored: names that begin with a dot (`.DS_Store`, `._0001.jpg`,
    `.git`), unless they are pictures, and SYSTEM_FILES. So are documents in the top folder.

    Args:
        root: Top folder of the data set; paths in `facts` are relative to it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._skipped: dict[str, list[str]] = {}
        self._documents: list[str] = []

    def folders(self, folder: Path, types: tuple[str, ...] = ()) -> list[str]:
        """Return the sorted names of the folders, and of the files of `types`, in a folder.

        Raises DataError if the folder is missing, or if it contains a broken link or a link to a folder above it.
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
            raise DataError(f"{some(dangling)}: a broken link; restore its target, or remove the link")
        return names

    def pictures(self, folder: Path) -> list[str]:
        """Return `pictures_of(folder)`, and note hidden pictures. Raises the exceptions of `pictures_of`."""
        names = pictures_of(folder)
        for name in sorted(set(os.listdir(folder)).difference(names)):
            self.skip("hidden pictures", folder / name)
        return names

    def skip(self, pictures: str, path: Path) -> None:
        """Note a file or folder that is not read; `pictures` is the heading under which pictures are counted."""
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
        """Return facts with number and first names of the files that were not read; empty if there are none.

        Documents have a separate fact, since no score depends on them.
        """
        facts = {}
        if self._skipped:
            kinds = sorted(self._skipped.items())
            facts["skipped"] = "; ".join(f"{kind}: {len(names):,} ({some(names)})" for kind, names in kinds)
        if self._documents:
            facts["documents"] = f"{len(self._documents):,}, not read ({some(self._documents)})"
        return facts


def is_ignored(name: str) -> bool:
    """Return whether a name is that of a file or folder of an operating system or program."""
    if name.startswith("."):
        return name.startswith("._") or not is_picture(name)
    return name.lower() in SYSTEM_FILES
