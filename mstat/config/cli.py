"""Parse a YAML and a command line into a Config, and write a Config to YAML. Imports no torch: --help is quick."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import zip_longest
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_origin

import jsonargparse
import yaml

from mstat.config import Config, changed
from mstat.config.packaged import find_config
from mstat.config.ranges import alternatives, is_number, out_of_range, setting_types
from mstat.config.yaml_settings import NULLS, flags_of
from mstat.errors import UserError
from mstat.files import write_text
from mstat.foreign_messages import NOT_A_LIST, UNKNOWN_KEY, UNKNOWN_KEY_IN_GROUP
from shards.paths import expand
from shards.records import UsageError
from shards.text import printable

SECTIONS = [key for key, value in asdict(Config()).items() if isinstance(value, dict)]
# YAML 1.1 reads `010` as octal (8) and `1:30` as sexagesimal (90).
ODD_NUMBER = re.compile(r"(?:^|[\[,\s])([-+]?(?:0\d|\d+:\d)[\d:.]*)")
MOST_CHARACTERS = 300  # of a number, or of a list of numbers
MOST_MESSAGE_CHARACTERS = 1000


class _Refused(Exception):
    """Error for settings that do not parse. It is not a ValueError, which jsonargparse would catch."""


class _Parser(jsonargparse.ArgumentParser):
    """Parser whose errors are one line that names the nearest valid key."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise _Refused(_reworded(" ".join(message.split()))[:MOST_MESSAGE_CHARACTERS])


def parse(argv: Sequence[str], default_config: Path | None = None, **options: Any) -> Config:
    """Return the settings of a command line: its YAML, or `default_config`, overridden by its flags.

    Flags override the YAML at any position: the YAML is read first even if it is named last. Invalid settings end the
    process with one line and exit status 2.
    """
    parser = _parser(**options)
    try:
        return _read(parser, argv, default_config)
    except _Refused as refused:
        parser.exit(2, printable(f"{parser.prog}: {refused}") + "\n")


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of a YAML file, overridden by flags.

    Raises:
        UserError: If a setting is invalid.
    """
    try:
        return _read(_plain_parser(), ["--config", str(path), *overrides], None)
    except _Refused as refused:
        raise UserError(f"{refused}" if str(path) in str(refused) else f"{path}: {refused}") from None


def _read(parser: jsonargparse.ArgumentParser, argv: Sequence[str], default_config: Path | None) -> Config:
    names: list[str] = []
    flags: list[str] = []
    remaining = list(argv)
    while remaining:
        word = remaining.pop(0)
        if word == "--config" and remaining:
            names.append(remaining.pop(0))
        elif word.startswith("--config="):
            names.append(word.partition("=")[2])
        else:
            flags.append(word)
    if not names and default_config is not None:
        names = [str(default_config)]
    try:
        of_files = [flag for name in names for flag in flags_of(find_config(name), SECTIONS)]
        _refuse_unknown(of_files)
        _refuse_classes(flags)
        _refuse_odd_values(of_files + flags)
    except (UserError, UsageError) as error:
        raise _Refused(str(error)) from None
    try:
        parsed = parser.instantiate(parser.parse_args(of_files + flags))
    except RecursionError:
        raise _Refused("a value is nested too deeply; write a plain value") from None
    config = Config(**{key: value for key, value in vars(parsed).items() if key != "config"})
    try:
        config = expand_paths(config)
    except UserError as error:
        raise _Refused(str(error)) from None
    if complaint := out_of_range(config):
        raise _Refused(complaint)
    return config


def expand_paths(config: Config) -> Config:
    """Return the config with `~` expanded in every setting that is a path.

    Raises:
        UserError: If `~name` names no user, or if a path is not valid UTF-8 (config.yaml could not hold it).
    """
    try:
        paths = {"run": config.run, "data.shards": config.data.shards, "model.init": config.model.init}
        expanded = {key: path and expand(path) for key, path in paths.items()}
        for path in filter(None, expanded.values()):
            path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r} is not valid UTF-8: rename the file, or give a link to it") from None
    except UsageError as error:
        raise UserError(str(error)) from None
    return changed(config, expanded)


def _refuse_unknown(flags: Sequence[str]) -> None:
    """Refuse unknown keys of a file. Otherwise jsonargparse reads the key `help` as the flag --help."""
    for flag in flags:
        key = flag.removeprefix("--").partition("=")[0]
        if key not in setting_types():
            raise UserError(_unknown_setting(key))


def _refuse_classes(flags: Sequence[str]) -> None:
    """Refuse a whole section, and `class_path` in a section: jsonargparse would import the class that they name."""
    for flag in flags:
        key = flag.removeprefix("--").partition("=")[0]
        section, _, name = key.partition(".")
        if not flag.startswith("--") or section not in SECTIONS or key in setting_types():
            continue
        if name:
            raise UserError(_unknown_setting(key))
        raise UserError(f"--{section} is a section: set its settings one by one, as --{section}.NAME VALUE")


def _refuse_odd_values(words: Sequence[str]) -> None:
    """Refuse numbers that YAML 1.1 reads in an unexpected base, and aliases, which can expand without bound.

    jsonargparse parses values as YAML 1.1.
    """
    types = setting_types()
    for flag, following in zip_longest(words, words[1:], fillvalue=""):
        key, is_joined, value = flag.removeprefix("--").partition("=")
        value = value if is_joined else following
        if key not in types:
            continue
        if any(unicodedata.category(character) == "Cc" for character in value):
            raise UserError(f"{key} has control characters ({value[:100]!r}): remove them")
        if "&" in value and "*" in value:
            raise UserError(f"{key} has both & and *, which YAML can read as an alias: remove one of them")
        if not is_number(types[key]):
            continue
        if len(value) > MOST_CHARACTERS:
            raise UserError(f"{key} has {len(value):,} characters: write it as a plain decimal number")
        if odd := ODD_NUMBER.search(value):
            raise UserError(f"{key} is {odd[1]}: write it as a plain decimal number")


def override(config: Config, settings: Mapping[str, str]) -> Config:
    """Return `config` with other values for some dotted keys, written as on a command line.

    Raises:
        UserError: If a setting is unknown or out of range.
    """
    plain = asdict(config)
    for key, value in settings.items():
        if key not in setting_types():  # a whole section could name a class, which jsonargparse would import
            raise UserError(_unknown_setting(key))
        section, _, name = key.rpartition(".")
        (plain[section] if section else plain)[name] = _parse(setting_types()[key], value)
    parser = _plain_parser()
    try:
        parsed = parser.instantiate(parser.parse_object(plain))
    except _Refused as refused:
        raise UserError(str(refused)) from None
    config = expand_paths(Config(**{key: value for key, value in vars(parsed).items() if key != "config"}))
    if complaint := out_of_range(config):
        raise UserError(complaint)
    return config


def _parse(kind: Any, text: str) -> Any:
    """Return the value that a text stands for; where a setting is a word, `0` and `no` are words, too."""
    is_word = all(one in (str, NoneType) or get_origin(one) is Literal for one in alternatives(kind))
    return text if is_word and text not in NULLS else yaml.safe_load(text)


def save_config(config: Config, path: Path) -> None:
    """Write every setting, including defaults, as YAML that `load_config` reads back."""
    plain = asdict(config)
    plain["model"] = {k: list(v) if isinstance(v, tuple) else v for k, v in plain["model"].items()}
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted keys."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def _parser(**options: Any) -> jsonargparse.ArgumentParser:
    options.setdefault("usage", "%(prog)s [--config FILE] [--section.key VALUE ...]")
    options.setdefault("allow_abbrev", False)  # `_read` finds --config by its full name
    parser = _Parser(**options)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below; flags override it")
    parser.add_class_arguments(Config, nested_key=None)
    return parser


@cache
def _plain_parser() -> jsonargparse.ArgumentParser:
    return _parser()


def _keys() -> list[str]:
    nested = asdict(Config())
    return list(nested) + [
        f"{section}.{key}" for section, values in nested.items() if isinstance(values, dict) for key in values
    ]


def _reworded(message: str) -> str:
    """Return jsonargparse's message, or our own for an unknown setting, or for a word in the place of a list."""
    if in_group := UNKNOWN_KEY_IN_GROUP.search(message):
        return _unknown_setting(".".join(in_group.groups()))
    if alone := UNKNOWN_KEY.search(message):
        return _unknown_setting(alone[1] or alone[2])
    if no_list := NOT_A_LIST.search(message):
        return f"{no_list[1]} is {no_list[2]}: write a list, such as [{no_list[2]}]"
    return message


def _unknown_setting(key: str) -> str:
    near = difflib.get_close_matches(key, [near for near in ("config", *_keys()) if near != key], n=1, cutoff=0.4)
    return f"unknown setting {key!r}" + (f": did you mean {near[0]!r}?" if near else "; --help lists all settings")
