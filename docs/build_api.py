"""Build the API reference of mstat and shards: `make docs`, or `python -W error docs/build_api.py FOLDER`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pdoc

PROJECT = Path(__file__).resolve().parents[1]


def modules(package: Path) -> Iterator[str]:
    """Yield the modules to name: pdoc finds those of a package by itself, unless an `__all__` leaves them out."""
    yield ".".join(package.relative_to(PROJECT).parts)
    text = (package / "__init__.py").read_text()
    if "__all__" not in text:
        return
    for path in sorted(package.iterdir()):
        if (path / "__init__.py").is_file():
            yield from modules(path)
        elif path.suffix == ".py" and not path.stem.startswith("__") and f'"{path.stem}"' not in text:
            yield ".".join(path.relative_to(PROJECT).with_suffix("").parts)


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    # Annotations of a NamedTuple are evaluated outside of its module, where names such as np are unknown.
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(
        *(name for package in ("mstat", "shards") for name in modules(PROJECT / package)),
        output_directory=Path(sys.argv[1]),
    )
