"""Models on the Hugging Face Hub: names, downloads and uploads.

A repository has the files of `mstat.report.snapshot`. Only model.safetensors and model.json are fetched to load a
model, so code or pickles in a repository reach no disk. `huggingface_hub` caches files and reads the token, HF_TOKEN or
that of `hf auth login`; with HF_HUB_OFFLINE=1 it only looks in its cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from mstat.errors import UserError

SCHEME = "hf://"
FILES = ("model.safetensors", "model.json")
SCORES = "evaluation.json"
# https://huggingface.co/docs/hub/repositories: letters, digits, -, _ and ., at most 96 of them.
PART = r"[A-Za-z0-9][\w.-]{0,95}"
# Of Git: no .. and no / at the start of a revision, which names a file in the cache.
NAME = re.compile(rf"({PART}/{PART})(?:@((?!.*\.\.)\w[\w./-]{{0,249}}))?", re.ASCII)
R = TypeVar("R")


class Repository(NamedTuple):
    """A repository on the Hub: `org/name`, and a branch, tag or commit (None: main)."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse(text: str) -> Repository | None:
    """Return the repository that `hf://org/name[@revision]` or `org/name[@revision]` names; None for any other text.

    Raises:
        UserError: If the text begins with hf:// and names no repository.
    """
    match = NAME.fullmatch(text.removeprefix(SCHEME))
    if match is None:
        if text.startswith(SCHEME):
            raise UserError(
                f"{text}: not a repository: write {SCHEME}organisation/name or {SCHEME}organisation/name@tag"
            )
        return None
    return Repository(match[1], match[2])


def local(text: str) -> tuple[Path, Repository | None]:
    """Return the path of a model, and the repository that `text` names: its path is in the cache. None: a local path.

    The Hub is asked if `text` begins with hf://, or has the form of a repository and no file has this name.

    Raises:
        UserError: If the repository cannot be had.
    """
    path = Path(text)
    repository = None if path.exists() else parse(text)
    if repository is None:
        return path, None
    try:
        return download(repository), repository
    except UserError as error:
        if text.startswith(SCHEME):
            raise
        raise UserError(f"{text}: no such file or folder here; on the Hub: {error}") from None


def download(repository: Repository) -> Path:
    """Return the folder in the cache that has a repository's model; files that are there are not fetched again.

    Raises:
        UserError: If there is no such repository or revision, or no network, or it has no model, or needs a token.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> Path:
        return Path(snapshot_download(repository.name, revision=repository.revision, allow_patterns=list(FILES)))

    folder = _explained(str(repository), fetch)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(
            f"{repository}: no {' and no '.join(missing)} in it: it is not a model of mstat, or only a part of it was "
            "fetched before; a model is written by launch/push.py"
        )
    return folder


def upload(folder: Path, name: str, private: bool, message: str) -> str:
    """Upload a folder of `mstat.report.snapshot` as one commit, and return the URL of the commit.

    The repository is made if it is missing. Scores of an earlier model are removed with it; other files stay.

    Args:
        private: Make a missing repository private, and refuse a public one; False leaves it to the organisation.

    Raises:
        UserError: If `name` names no repository, there is no token or no network, the Hub refuses it, or `private` is
            asked of a public repository, to which nothing is then sent.
    """
    from huggingface_hub import HfApi

    repository = parse(name)
    if repository is None or repository.revision:
        raise UserError(f"{name}: not a repository: write organisation/name")
    api = HfApi()

    def is_public() -> bool:
        api.create_repo(repository.name, private=private or None, exist_ok=True)
        return private and not api.model_info(repository.name).private

    def send() -> str:
        commit = api.upload_folder(
            repo_id=repository.name,
            folder_path=folder,
            commit_message=message,
            delete_patterns=[SCORES],  # the folder may have none, and those of other weights would lie beside ours
        )
        return str(commit.commit_url)

    if _explained(str(repository), is_public):
        raise UserError(
            f"{repository}: exists and is public, so nothing was sent: make it private in its settings, or give "
            "another name"
        )
    return _explained(str(repository), send)


def _explained(what: str, call: Callable[[], R]) -> R:
    """Call a function of `huggingface_hub`, and raise its errors as one line with the way out."""
    from huggingface_hub import errors

    token = "set HF_TOKEN, or run `hf auth login`"
    ways: Mapping[type[BaseException], str] = {
        errors.GatedRepoError: f"access must be granted on its page first, and needs a token: {token}",
        errors.RepositoryNotFoundError: f"no such repository, or it is private: check the name, or {token}",
        errors.RevisionNotFoundError: "no such branch, tag or commit",
        errors.LocalEntryNotFoundError: "not in the cache, and the Hub was not reached: check the network "
        "(HF_HUB_OFFLINE=1 forbids it), or give the path of a local copy",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE=1 forbids the network: unset it",
        errors.LocalTokenNotFoundError: f"a token is needed: {token}",
        errors.HFValidationError: "not a valid name of a repository",
    }
    try:
        return call()
    except tuple(ways) as error:
        way = next(text for kind, text in ways.items() if isinstance(error, kind))
        raise UserError(f"{what}: {way}") from None
    except Exception as error:
        of_network = type(error).__module__.startswith("httpx")  # or httpx2, by the version of `huggingface_hub`
        if not of_network and not isinstance(error, errors.HfHubHTTPError | ValueError):
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(f"{what}: the Hub refuses it; with a token that has the right to do it, {token}") from None
        reason = " ".join(str(error).split()).partition(" For more information")[0][:200]
        way = ": check the network, then try again" if of_network else ""
        raise UserError(f"{what}: the Hub failed: {reason}{way}") from None
