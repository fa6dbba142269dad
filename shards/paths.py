"""Paths and URLs as people write them.

A shell expands `~` in `--out ~/x`, but not in `--out=~/x`, a YAML or a variable. So every path of a command line, a
setting or the environment goes through `expand`.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from shards.records import DataError, UsageError

# Of URLs. fsspec bounds the time of each request to these; all others that it knows are refused, also those that are no
# places but programs (reference, filecache, zip, ...).
PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf", "oci", "oss", "memory", "file")
PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]+(@)")
IPV6 = re.compile(r"\[[0-9a-fA-F:.]+\]")


def expand(text: str) -> str:
    """The path with the home folder for `~` or `~name` at its start; a URL as it is.

    Raises UsageError where there is no such user.
    """
    if "://" in text:
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = text.partition("/")[0]
        raise UsageError(f"{text}: {name} is no user's home folder; a file of that name is ./{text}")
    return expanded


def path(text: str) -> Path:
    """The type of a command-line option that is a path."""
    try:
        return Path(expand(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def place(text: str) -> str:
    """The type of a command-line option that is a path or a URL."""
    return text if "://" in text else str(path(text))


def without_password(url: str) -> str:
    """Return a URL for messages: the password of `protocol://user:password@host` is replaced by stars."""
    return PASSWORD.sub(r"\1***\2", url)


def check_url(url: str) -> None:
    """Raise DataError where a URL is a chain of several, or of a protocol that is not opened."""
    protocol, _, rest = url.partition("://")
    shown = without_password(url)
    if "::" in IPV6.sub("", url, count=1):
        raise DataError(f"{shown}: a chain of URLs (::), which is not opened; give the folder of shards itself")
    if protocol not in PROTOCOLS:
        raise DataError(f"{shown}: a protocol that is not opened; a URL begins with one of {', '.join(PROTOCOLS)}")
    if not rest.strip("/"):
        raise DataError(f"{shown}: no address after {protocol}://")
