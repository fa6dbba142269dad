"""From a YAML and the command line to a Config, and back. Loads no torch, so that --help is quick."""

from __future__ import annotations

import difflib
import re
import sys
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
from mstat.config.ranges import alternatives, is_number, out_of_range, setting_types
from mstat.config.yaml_settings import NULLS, flags_of
from mstat.errors import UserError
from mstat.files import write_text
from shards.paths import expand
from shards.records import UsageError
from shards.text import printable

SECTIONS = [key for key, value in asdict(Config()).items() if isinstance(value, dict)]
# `010` would be eight in a list, and `1:30` ninety: YAML 1.1 counts in eights and in sixties.
ODD_NUMBER = re.compile(r"(?:^|[\[,\s])([-+]?(?:0\d|\d+:\d)[\d:.]*)")
MOST_DIGITS = 300  # of a number, or of several
MOST_LETTERS = 1000  # of a message


class _Refused(Exception):
    """Settings that do not parse. No ValueError, which jsonargparse would catch."""


class _Parser(jsonargparse.ArgumentParser):
    """Complains in one line, with the nearest valid key."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise _Refused(_with_nearest_key(" ".join(message.split()))[:MOST_LETTERS])


def parse(argv: Sequence[str], default_config: Path | None = None, **options: Any) -> Config:
    """The settings that a command line asks for: its YAML, or `default_config`, changed by its flags.

    Flags count wherever they stand: the YAML is read first even if it is named last. Bad settings end the process with
    one line and status 2.
    """
    parser = _parser(**options)
    try:
        return _read(parser, argv, default_config)
    except _Refused as refused:
        print(printable(f"{parser.prog}: {refused}"), file=sys.stderr)
        raise SystemExit(2) from None


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The settings in a YAML file, changed by flags.

    Raises:
        UserError: If they do not parse.
    """
    try:
        return _read(_plain_parser(), ["--config", str(path), *overrides], None)
    except _Refused as refused:
        raise UserError(f"{refused}" if str(path) in str(refused) else f"{path}: {refused}") from None


def _read(parser: jsonargparse.ArgumentParser, argv: Sequence[str], default_config: Path | None) -> Config:
    names: list[str] = []
    flags: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--config" and rest:
            names.append(rest.pop(0))
        elif word.startswith("--config="):
            names.append(word.partition("=")[2])
        else:
            flags.append(word)
    if not names and default_config is not None:
        names = [str(default_config)]
    try:
        of_files = [flag for name in names for flag in flags_of(Path(expand(name)), SECTIONS)]
        _refuse_unknown(of_files)
        _refuse_classes(flags)
        _refuse_odd_values(of_files + flags)
    except (UserError, UsageError) as error:
        raise _Refused(str(error)) from None
    try:
        parsed = parser.instantiate(parser.parse_args(of_files + flags))
    except RecursionError:
        raise _Refused("a value is nested too deeply") from None
    config = Config(**{key: value for key, value in vars(parsed).items() if key != "config"})
    try:
        config = expand_paths(config)
    except UserError as error:
        raise _Refused(str(error)) from None
    if complaint := out_of_range(config):
        raise _Refused(complaint)
    return config


def expand_paths(config: Config) -> Config:
    """The config with the home folder for `~` in every setting that is a path.

    Raises:
        UserError: If there is no such user, or a name is no UTF-8: config.yaml could not hold it.
    """
    try:
        paths = {"run": config.run, "data.shards": config.data.shards, "model.init": config.model.init}
        expanded = {key: path and expand(path) for key, path in paths.items()}
        for path in filter(None, expanded.values()):
            path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{error.object!r}: a name that is no UTF-8; rename it, or make a link to it") from None
    except UsageError as error:
        raise UserError(str(error)) from None
    return changed(config, expanded)


def _refuse_unknown(flags: Sequence[str]) -> None:
    """Refuse what is no setting: of a file's keys, `help` would be taken for the flag."""
    for flag in flags:
        key = flag.removeprefix("--").partition("=")[0]
        if key not in setting_types():
            raise UserError(_with_nearest_key(f"unrecognized arguments: --{key}"))


def _refuse_classes(flags: Sequence[str]) -> None:
    """Refuse a section as a whole, and `class_path` in one: jsonargparse would import what they name."""
    for flag in flags:
        key = flag.removeprefix("--").partition("=")[0]
        section, _, name = key.partition(".")
        if not flag.startswith("--") or section not in SECTIONS or key in setting_types():
            continue
        if name:
            raise UserError(_with_nearest_key(f"unrecognized arguments: --{key}"))
        raise UserError(f"--{section} is a section: give its settings one by one, as --{section}.NAME")


def _refuse_odd_values(words: Sequence[str]) -> None:
    """Refuse values that YAML 1.1 reads as another number than people do, or expands to any size.

    jsonargparse reads values as YAML 1.1.
    """
    types = setting_types()
    for flag, following in zip_longest(words, words[1:], fillvalue=""):
        key, is_joined, value = flag.removeprefix("--").partition("=")
        value = value if is_joined else following
        if key not in types:
            continue
        if any(unicodedata.category(letter) == "Cc" for letter in value):
            raise UserError(f"{key} has control characters ({value[:100]!r}): write it without")
        if "&" in value and "*" in value:
            raise UserError(f"{key} has both & and *, which YAML could take for an alias: write it without")
        if not is_number(types[key]):
            continue
        if len(value) > MOST_DIGITS:
            raise UserError(f"{key} has {len(value):,} letters: write it as a plain decimal number")
        if odd := ODD_NUMBER.search(value):
            raise UserError(f"{key} is {odd[1]}: write it as a plain decimal number")


def override(config: Config, settings: Mapping[str, str]) -> Config:
    """The settings of `config` with others for some dotted keys, in the words of a command line.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """
    plain = asdict(config)
    for key, value in settings.items():
        if key not in setting_types():  # a section as a whole could name a class, which jsonargparse would import
            raise UserError(_with_nearest_key(f"unrecognized arguments: --{key}"))
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
    """Write every setting, defaults too, as YAML that `load_config` reads back."""
    plain = asdict(config)
    plain["model"] = {k: list(v) if isinstance(v, tuple) else v for k, v in plain["model"].items()}
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def _parser(**options: Any) -> jsonargparse.ArgumentParser:
    options.setdefault("usage", "%(prog)s [--config FILE] [--section.key VALUE ...]")
    options.setdefault("allow_abbrev", False)  # a cut-off --config would slip past the order that `parse` keeps
    parser = _Parser(**options)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below; flags change it")
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


def _with_nearest_key(message: str) -> str:
    in_group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    alone = re.search(r"unrecognized arguments: --([\w.]+)|Option '([\w.]+)' is not accepted", message)
    if in_group:
        key = ".".join(in_group.groups())
    elif alone:
        key = alone[1] or alone[2]
    else:
        return message
    near = difflib.get_close_matches(key, [near for near in ("config", *_keys()) if near != key], n=1, cutoff=0.4)
    return f"unknown setting {key!r}" + (f": did you mean {near[0]!r}?" if near else "; --help lists all")
