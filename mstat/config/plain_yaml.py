"""YAML of plain values, within bounds: for files that somebody else may have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mstat.errors import UserError
from mstat.files import read_plain
from shards.text import printable

MOST_BYTES = 1 << 16
MOST_DIGITS = 400  # of a number: YAML's own reading of a long one takes long, and Python refuses to print it


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A SafeLoader without aliases, tags and endless numbers.

    A small file that refers to itself again and again grows beyond any memory.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name); write the value out", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.composer.ComposerError(None, None, f"a tag ({event.tag}); write a plain value", event.start_mark)
        return super().compose_node(parent, index)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and len(value) > MOST_DIGITS:
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)


def parse_plain_yaml(text: str, name: str) -> Any:
    """Return the plain values of a YAML text. An empty one is None.

    Args:
        name: Of the file, for messages.

    Raises:
        UserError: If it is no YAML, holds aliases or tags, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: {printable(' '.join(str(error).split()))}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a date or a number that there is none of
        raise UserError(f"{name}: {error}") from None


def read_plain_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file. Raises as `read_plain` and `parse_plain_yaml`."""
    return parse_plain_yaml(read_plain(path, MOST_BYTES).decode(errors="replace"), str(path))
