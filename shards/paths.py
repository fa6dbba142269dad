"""Parse paths and URLs that users write.

A shell expands `~` in `--out ~/x`, but not in `--out=~/x`, a YAML file or a variable. So every path from a command
line, a setting or the environment goes through `expand`.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from shards.records import DataError, UsageError

# Of URLs. fsspec bounds the time of each request to them. Its other protocols are refused, also those that transform
# other URLs (reference, filecache, zip, ...).
PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf", "oci", "oss", "memory", "file")
PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]+(@)")
IPV6 = re.compile(r"\[[0-9a-fA-F:.]+\]")


def expand(text: str) -> str:
    """Replace `~` or `~name` at the start of a path by the home folder; return a URL unchanged.

    Raises UsageError if there is no such user.
    """
    if "://" in text:
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = text.partition("/")[0]
        raise UsageError(f"{text}: {name} is no user's home folder; for a file of that name write ./{text}")
    return expanded


def path(text: str) -> Path:
    """Parse a path: the `type` of command-line options."""
    try:
        return Path(expand(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def place(text: str) -> str:
    """Parse a path or URL: the `type` of command-line options."""
    return text if "://" in text else str(path(text))


def without_password(url: str) -> str:
    """Replace the password in `protocol://user:password@host` by stars, for messages."""
    return PASSWORD.sub(r"\1***\2", url)


def check_url(url: str) -> None:
    """Raise DataError if a URL is a chain of several, or its protocol is not supported."""
    protocol, _, rest = url.partition("://")
    shown = without_password(url)
    if "::" in IPV6.sub("", url, count=1):
        raise DataError(f"{shown}: chains of URLs (::) are not supported; give the folder of shards itself")
    if protocol not in PROTOCOLS:
        raise DataError(f"{shown}: unsupported protocol; a URL begins with one of {', '.join(PROTOCOLS)}")
    if not rest.strip("/"):
        raise DataError(f"{shown}: no address after {protocol}://")
