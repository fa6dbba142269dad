"""Turn a YAML of settings into command-line flags, so that a value means the same in both.

YAML 1.1 reads `no` as false, `010` as 8 and `1:30` as 90, and keeps the second of two equal keys. Here YAML gives only
the structure of the file. The type of a setting decides what its value means, as for a flag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mstat.errors import UserError

MOST_BYTES = 1 << 15
MOST_VALUES = 100  # of a list
MOST_CHARACTERS = 4096  # of a value, such as a path
MOST_KEY_CHARACTERS = 100
MOST_ALIASES = 20
NULLS = ("", "~", "null", "Null", "NULL")
KINDS = ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge")
CORE_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in KINDS)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader that bounds the memory of aliases and merges: with them, a small file can expand beyond any memory."""

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
        """Put merged pairs before the node's own, and keep the last of equal keys."""
        super().flatten_mapping(node)
        if all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            node.value = list({key.value: (key, value) for key, value in node.value}.values())


def flags_of(path: Path, sections: Collection[str]) -> list[str]:
    """Return the settings of a file as `--section.key=value`, in the order of the file.

    Args:
        sections: Keys that hold a mapping of settings.

    Raises:
        UserError: If the file is not a YAML of settings, or sets a key twice.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UserError(
                f"{path}: has more than {MOST_BYTES >> 10} KiB, which no settings file needs: check the path"
            )
        return _flags(_Loader(data), path, sections)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; write `section:` and, indented, `key: value`") from None


def _flags(loader: _Loader, path: Path, sections: Collection[str]) -> list[str]:
    root = loader.get_single_node()
    if root is None:
        raise UserError(f"{path}: empty; it must hold settings, as configs/synthetic.yaml does")
    lines: dict[str, int] = {}
    flags = []
    for key, node in _settings(loader, path, root, sections):
        line = node.start_mark.line + 1
        if key in lines:
            raise UserError(f"{path}, line {line}: {key} is already set in line {lines[key]}: keep one of them")
        lines[key] = line
        flags.append(f"--{key}={_flag_value(path, key, node)}")
    return flags


def _settings(
    loader: yaml.SafeLoader, path: Path, root: yaml.Node, sections: Collection[str]
) -> Iterator[tuple[str, yaml.Node]]:
    """Yield dotted keys and their values. A section's own keys replace those of a merge (`<<`)."""
    for key, node in _pairs(loader, path, root, "the file"):
        if isinstance(node, yaml.ScalarNode) and key in sections and node.value in NULLS:
            continue  # a section whose lines are all comments
        if key in sections or isinstance(node, yaml.MappingNode):
            for name, value in _pairs(loader, path, node, key):
                yield f"{key}.{name}", value
        else:
            yield key, node


def _pairs(loader: yaml.SafeLoader, path: Path, node: yaml.Node, what: str) -> list[tuple[str, yaml.Node]]:
    """Return the keys and values of a mapping."""
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode) or node.tag not in CORE_TAGS:
        raise UserError(f"{path}, line {line}: {what} must be a mapping of settings, one `key: value` per line")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{path}, line {line}: a key must be a plain name")
        if len(key.value) > MOST_KEY_CHARACTERS:
            raise UserError(f"{path}, line {line}: a key has {len(key.value):,} characters, which no setting has")
        if key.value in lines:
            raise UserError(
                f"{path}, line {line}: {key.value} is already in {what}, in line {lines[key.value]}: merge the two"
            )
        lines[key.value] = line
    loader.flatten_mapping(node)  # merged pairs (`<<`) come first, and the mapping's own keys replace them
    if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
        raise UserError(f"{path}, line {line}: a key merged by << must be a plain name")
    return [(key.value, value) for key, value in node.value]


def _flag_value(path: Path, key: str, node: yaml.Node) -> str:
    """Return a value as it is written on a command line."""
    where = f"{path}, line {node.start_mark.line + 1}: {key}"
    if node.tag not in CORE_TAGS:
        raise UserError(f"{where} has the tag {node.tag}: write a plain value")
    if isinstance(node, yaml.SequenceNode):
        if len(node.value) > MOST_VALUES or any(not isinstance(item, yaml.ScalarNode) for item in node.value):
            raise UserError(f"{where} must be a list of at most {MOST_VALUES} plain values")
        return "[" + ", ".join(_flag_value(path, key, item) for item in node.value) + "]"
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{where} must be a value, not a mapping")
    if len(node.value) > MOST_CHARACTERS:
        raise UserError(f"{where} has {len(node.value):,} characters; at most {MOST_CHARACTERS:,} are allowed")
    if node.style in ("'", '"') and node.value in NULLS:
        raise UserError(f"{where} is {node.value!r} in quotes: write null without quotes for no value, or give a value")
    return "null" if node.value in NULLS else node.value
