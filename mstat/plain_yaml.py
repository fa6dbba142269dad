"""YAML of plain values, within bounds: for files that somebody else may have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mstat.errors import UserError
from mstat.files import read_plain

MOST_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """A SafeLoader without aliases: a small file that refers to itself again and again grows beyond any memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*name); write the value out", mark)
        return super().compose_node(parent, index)


def parse_plain_yaml(text: str, name: str) -> Any:
    """Return the plain values of a YAML text.

    Args:
        name: Of the file, for messages.

    Raises:
        UserError: If it is no YAML, holds aliases or tags of objects, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a date or a number that there is none of
        raise UserError(f"{name}: {error}") from None


def read_plain_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file. Raises as `read_plain` and `parse_plain_yaml`."""
    return parse_plain_yaml(read_plain(path, MOST_BYTES).decode(errors="replace"), str(path))
