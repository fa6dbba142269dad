"""Read Dockerfile, .dockerignore and mstat.def as far as ours go, to run or compare their steps without Docker."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """`RUN`, `COPY`, … and all behind it, lines joined."""

    word: str
    rest: str

    def options(self) -> tuple[list[str], str]:
        """The flags (`--mount=…`, `--chown=…`) and what follows them."""
        rest, flags = self.rest, []
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            flags.append(flag)
            rest = rest.lstrip()
        return flags, rest


def steps(text: str) -> list[Step]:
    """The instructions of a Dockerfile, in order."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    instructions = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Step(words[0], words[1]) for words in instructions]


def assignments(rest: str) -> dict[str, str]:
    """`A=b C=d` of an ENV or ARG."""
    return dict(pair.split("=", 1) for pair in shlex.split(rest) if "=" in pair)


def expand(text: str, variables: dict[str, str]) -> str:
    """`$NAME` and `${NAME}`, as ENV, COPY and the others have them; RUN's are the shell's."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], ""), text)


def ignored(pattern_file: str, path: str) -> bool:
    """Return whether .dockerignore leaves out a path relative to its folder. Patterns with `!` are not supported."""
    for line in filter(None, map(str.strip, pattern_file.splitlines())):
        pattern = re.escape(line.strip("/")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            return True
    return False


def copy(project: Path, source: str, target: Path) -> None:
    """COPY of one source: a file, or the folder without what .dockerignore names."""
    patterns = (project / ".dockerignore").read_text()

    def leave_out(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(project)
        return {name for name in names if ignored(patterns, str(inside / name))}

    if (project / source).is_file():
        shutil.copy(project / source, target)
    else:
        shutil.copytree(project / source, target, ignore=leave_out, dirs_exist_ok=True)


def section(text: str, name: str) -> list[str]:
    """The lines of a section of an Apptainer definition."""
    _, _, rest = text.partition(f"\n%{name}\n")
    return [line.strip() for line in re.split(r"\n%\w+\n", rest)[0].splitlines() if line.strip()]


def commands(run: str) -> list[str]:
    """The commands that a RUN joins by `&&`, blanks and the cache's place made equal."""
    plain = run.replace("--cache-dir /var/cache/pip", "--no-cache-dir")
    return [" ".join(command.split()) for command in plain.split("&&")]
