"""Sites: the environment, network and container of one cluster, in one YAML.

configs/sites/ has some to copy; docs/cluster.md explains them.
"""

from __future__ import annotations

import difflib
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from mstat.config.plain_yaml import MOST_BYTES, parse_plain_yaml
from mstat.errors import UserError
from shards.paths import expand
from shards.text import breaks_lines

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Site:
    """A cluster.

    Attributes:
        setup: Lines of shell that the batch script runs first (`module load`, `source .venv/bin/activate`). What they
            export reaches every node.
        environment: Variables of every process.
        interface: Network interface between the nodes, as `ip addr` calls it; for NCCL and gloo.
        python: The interpreter on the nodes (in the container, where there is one); null takes the one that runs
            launch/submit.py.
        project: Where this repository lies on the nodes, or in the container; null: where it lies here.
        container: A command before the interpreter, as in `apptainer exec --nv image.sif`.
        srun: More flags of every srun, as in `--container-image=/images/mstat.sqsh` (Pyxis).
        sbatch: More flags of every sbatch, as in `--exclusive`.
        accelerate: The YAML of `accelerate launch`; null takes configs/accelerate/multinode.yaml.
        partition: Default of --partition.
        account: Default of --account.
        qos: Default of --qos.
        image: Of the pods, for `--scheduler kubernetes`: what Dockerfile made, where the cluster can pull it from.
        volumes: Likewise: path in the pods -> persistent volume claim. With several nodes, those of run folder and
            shards must be claims that many can mount (ReadWriteMany).
        memory: Likewise: what a pod asks for, as in `500Gi`; null leaves it to the cluster.
        host_python: A Python, 3.9 or newer, of the nodes themselves: it keeps account of the attempts outside of any
            container. null takes `python` where there is no container, else python3.
    """

    setup: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    interface: str | None = None
    python: str | None = None
    project: str | None = None
    container: str | None = None
    srun: list[str] = field(default_factory=list)
    sbatch: list[str] = field(default_factory=list)
    accelerate: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    image: str | None = None
    volumes: dict[str, str] = field(default_factory=dict)
    memory: str | None = None
    host_python: str | None = None

    @property
    def interpreter(self) -> str:
        """The interpreter on the nodes."""
        return self.python or shlex.quote(sys.executable)

    @property
    def accountant(self) -> str:
        """The Python that runs mstat/cluster/restarts.py on the batch host."""
        contained = self.container or any(flag.startswith("--container") for flag in self.srun)
        return self.host_python or ("python3" if contained else self.interpreter)

    @property
    def root(self) -> str:
        """The repository on the nodes."""
        return self.project or str(PROJECT)

    def variables(self) -> dict[str, str]:
        """The environment of every process."""
        if not self.interface:
            return self.environment
        interfaces = {"GLOO_SOCKET_IFNAME": self.interface, "NCCL_SOCKET_IFNAME": f"={self.interface}"}
        return {**interfaces, **self.environment}

    def exports(self) -> list[str]:
        """Lines of shell that set it."""
        return [f"export {name}={shlex.quote(value)}" for name, value in self.variables().items()]


def load_site(path: Path | None) -> Site:
    """The site that a YAML describes; without one, this machine's Python and nothing else.

    Raises:
        ValueError: If the file is not such a YAML; it names the key.
    """
    if path is None:
        return Site()
    with path.open("rb") as file:
        text = file.read(MOST_BYTES).decode("utf-8", errors="replace")
    content = parse_plain_yaml(text, str(path))
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: holds no settings of a site, as configs/sites/ has them")
    values = {str(key): value for key, value in (content or {}).items() if value is not None}
    for key, value in values.items():
        _check(path, key, value)
    return _expanded(Site(**values))


def _check(path: Path, key: str, value: Any) -> None:
    """Refuse a key that no Site has, and a value of another type. Nothing that the file names is imported for it."""
    kind = get_type_hints(Site).get(key)
    if kind is None:
        near = difflib.get_close_matches(key, get_type_hints(Site), n=1, cutoff=0.4)
        raise UserError(f"{path}: unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    if kind == list[str]:
        what, words = "a list of words", value if isinstance(value, list) else [None]
    elif kind == dict[str, str]:
        what, words = "words by name", [*value, *value.values()] if isinstance(value, dict) else [None]
    else:
        what, words = "a word", [value]
    odd = [word for word in words if not isinstance(word, str)]
    if odd:
        raise UserError(f"{path}: {key} must be {what} (YAML takes {odd[0]!r:.50} for another type: put it in quotes)")
    if key not in ("setup", "container") and any(breaks_lines(str(word)) for word in words):
        raise UserError(f"{path}: {key} must be {what}, each in one line")


def _expanded(site: Site) -> Site:
    """A site with the home folder for `~`: the batch script quotes these values, which keeps a shell from doing it."""
    for name in ("python", "project", "accelerate", "host_python"):
        if value := getattr(site, name):
            setattr(site, name, expand(value))
    for name, value in site.environment.items():
        if value.startswith("~/"):
            site.environment[name] = expand(value)
    return site
