"""A YAML of settings as the words of a command line, so that a value means the same in both places.

YAML 1.1 takes `no` for false, `010` for eight, `1:30` for ninety and lets the second of two equal keys win. Here only
the structure of the file is YAML's; what a word means is decided by the type of its setting, as for a flag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mstat.errors import UserError

MOST_BYTES = 1 << 15
MOST_VALUES = 100  # of a list
MOST_LETTERS = 4096  # of a value, as of a path
MOST_KEY_LETTERS = 100
MOST_ALIASES = 20
NULLS = ("", "~", "null", "Null", "NULL")
KINDS = ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge")
CORE_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in KINDS)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A SafeLoader whose aliases and merges take bounded memory: a small file could refer to itself again and again."""

    num_aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.num_aliases += 1
            if self.num_aliases > MOST_ALIASES:
                raise yaml.composer.ComposerError(
                    None, None, f"more than {MOST_ALIASES} aliases (*name)", self.peek_event().start_mark
                )
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged pairs before the node's own; of equal keys the last stays."""
        super().flatten_mapping(node)
        if all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            node.value = list({key.value: (key, value) for key, value in node.value}.values())


def flags_of(path: Path, sections: Collection[str]) -> list[str]:
    """The settings of a file as `--section.key=value`, in the order of the file.

    Args:
        sections: Keys that hold a mapping of settings.

    Raises:
        UserError: If the file is no YAML of settings, or sets a key twice.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UserError(f"{path}: has more than {MOST_BYTES >> 10} KiB, which no settings need")
        return _flags(_Loader(data), path, sections)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None


def _flags(loader: _Loader, path: Path, sections: Collection[str]) -> list[str]:
    root = loader.get_single_node()
    if root is None:
        raise UserError(f"{path}: is empty: it must hold settings, as configs/synthetic.yaml does")
    lines: dict[str, int] = {}
    flags = []
    for key, node in _settings(loader, path, root, sections):
        line = node.start_mark.line + 1
        if key in lines:
            raise UserError(f"{path}, line {line}: {key} is set twice, in line {lines[key]} before: keep one of them")
        lines[key] = line
        flags.append(f"--{key}={_words(path, key, node)}")
    return flags


def _settings(
    loader: yaml.SafeLoader, path: Path, root: yaml.Node, sections: Collection[str]
) -> Iterator[tuple[str, yaml.Node]]:
    """Dotted keys and their values; a section may hold the keys of a merge (`<<`), which its own keys replace."""
    for key, node in _pairs(loader, path, root, "the file"):
        if isinstance(node, yaml.ScalarNode) and key in sections and node.value in NULLS:
            continue  # a section whose lines are all comments
        if key in sections or isinstance(node, yaml.MappingNode):
            for name, value in _pairs(loader, path, node, key):
                yield f"{key}.{name}", value
        else:
            yield key, node


def _pairs(loader: yaml.SafeLoader, path: Path, node: yaml.Node, what: str) -> list[tuple[str, yaml.Node]]:
    """Keys and values of a mapping."""
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode) or node.tag not in CORE_TAGS:
        raise UserError(f"{path}, line {line}: {what} must be a mapping of settings, `key: value` each")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{path}, line {line}: a key must be a word")
        if len(key.value) > MOST_KEY_LETTERS:
            raise UserError(f"{path}, line {line}: a key of {len(key.value):,} letters, which no setting has")
        if key.value in lines:
            raise UserError(
                f"{path}, line {line}: {key.value} stands twice in {what}, in line {lines[key.value]} before: "
                "join the two"
            )
        lines[key.value] = line
    loader.flatten_mapping(node)  # what `<<` merges comes first, and the mapping's own keys replace it
    if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
        raise UserError(f"{path}, line {line}: a key of what << merges must be a word")
    return [(key.value, value) for key, value in node.value]


def _words(path: Path, key: str, node: yaml.Node) -> str:
    """A value as one would write it on the command line."""
    where = f"{path}, line {node.start_mark.line + 1}: {key}"
    if node.tag not in CORE_TAGS:
        raise UserError(f"{where} has the tag {node.tag}: give a plain value")
    if isinstance(node, yaml.SequenceNode):
        if len(node.value) > MOST_VALUES or any(not isinstance(item, yaml.ScalarNode) for item in node.value):
            raise UserError(f"{where} must be a list of at most {MOST_VALUES} plain values")
        return "[" + ", ".join(_words(path, key, item) for item in node.value) + "]"
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{where} must be a value, not a mapping")
    if len(node.value) > MOST_LETTERS:
        raise UserError(f"{where} has {len(node.value):,} letters, which no setting needs")
    if node.style in ("'", '"') and node.value in NULLS:
        raise UserError(f"{where} is {node.value!r} in quotes: write null for no value, or a name")
    return "null" if node.value in NULLS else node.value
