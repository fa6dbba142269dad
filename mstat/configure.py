"""From a YAML and the command line to a Config, and back. Loads no torch, so that --help is quick."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml

from mstat.config import Config
from mstat.files import write_text


class _Parser(jsonargparse.ArgumentParser):
    """Complains in one line, with the nearest valid key, and exits with 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"{self.prog}: {_with_nearest_key(' '.join(message.split()))}", file=sys.stderr)
        raise SystemExit(2)


def parse(argv: Sequence[str], default_config: Path | None = None, **options: Any) -> Config:
    """The settings that a command line asks for: its YAML, or `default_config`, changed by its flags.

    Flags count wherever they stand: the YAML is read first even if it is named last.
    """
    parser = _parser(**options)
    files, flags = [], []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--config" and rest:
            files += [word, rest.pop(0)]
        elif word.startswith("--config="):
            files.append(word)
        else:
            flags.append(word)
    if not files and default_config is not None:
        files = ["--config", str(default_config)]
    parsed = parser.instantiate(parser.parse_args(files + flags))
    return Config(**{key: value for key, value in vars(parsed).items() if key != "config"})


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The settings in a YAML file, changed by flags."""
    return parse(["--config", str(path), *overrides], prog=path.name)


def save_config(config: Config, path: Path) -> None:
    """Write every setting, defaults too, as YAML that `load_config` reads back."""
    plain = asdict(config)
    plain["model"] = {k: list(v) if isinstance(v, tuple) else v for k, v in plain["model"].items()}
    write_text(path, yaml.safe_dump(plain, sort_keys=False))


def _parser(**options: Any) -> jsonargparse.ArgumentParser:
    options.setdefault("usage", "%(prog)s [--config FILE] [--section.key VALUE ...]")
    parser = _Parser(**options)
    parser.add_argument("--config", action="config", help="YAML with any of the settings below; flags change it")
    parser.add_class_arguments(Config, nested_key=None)
    return parser


def _keys() -> list[str]:
    nested = asdict(Config())
    return [key for key, value in nested.items() if not isinstance(value, dict)] + [
        f"{section}.{key}" for section, values in nested.items() if isinstance(values, dict) for key in values
    ]


def _with_nearest_key(message: str) -> str:
    in_group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    unknown = re.search(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'", message)
    if not unknown:
        return message
    key = ".".join(in_group.groups()) if in_group else unknown[1] or unknown[2]
    near = difflib.get_close_matches(key, _keys(), n=1, cutoff=0.4)
    return f"unknown setting {key!r}" + (
        f": did you mean {near[0]!r}?" if near else f"; there are: {', '.join(_keys())}"
    )
