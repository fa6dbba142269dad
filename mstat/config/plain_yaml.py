"""Read YAML of plain values from untrusted files, within bounds on size and nesting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mstat.errors import UserError
from mstat.files import read_plain
from shards.text import printable

MOST_BYTES = 1 << 16
MOST_DIGITS = 400  # of a number: YAML is slow to parse longer ones, and Python refuses to print them


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader without aliases, tags and long numbers.

    With aliases, a small file can expand beyond any memory.
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
    """Return the plain values of a YAML text; None if it is empty.

    Args:
        name: Name of the file, for messages.

    Raises:
        UserError: If the text is not valid YAML, has aliases or tags, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: {printable(' '.join(str(error).split()))}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply; write plain values") from None
    except (ValueError, OverflowError) as error:  # an impossible date or number
        raise UserError(f"{name}: {error}") from None


def read_plain_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file. Raises as `read_plain` and `parse_plain_yaml`."""
    return parse_plain_yaml(read_plain(path, MOST_BYTES).decode(errors="replace"), str(path))
