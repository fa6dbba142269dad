"""Sites: the environment, network and container of a cluster, described in a YAML file.

configs/sites/ has examples; docs/cluster.md explains them.
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
IS_CLONE = (PROJECT / "pyproject.toml").is_file()


@dataclass
class Site:
    """A cluster.

    Attributes:
        setup: Lines of shell that the batch script runs first (`module load`, `source .venv/bin/activate`). Variables
            that they export reach every node.
        environment: Environment variables of every process.
        interface: Network interface between the nodes, as `ip addr` names it, for NCCL and gloo.
        python: The interpreter on the nodes, or in the container; null is the one that runs launch/submit.py.
        project: The path of this repository on the nodes, or in the container; null is its path here. Without a clone
            here, null is an mstat that is installed for `python`.
        container: A command to run the interpreter with, such as `apptainer exec --nv image.sif`.
        srun: Further flags of every srun, such as `--container-image=/images/mstat.sqsh` (Pyxis).
        sbatch: Further flags of every sbatch, such as `--exclusive`.
        accelerate: The YAML of `accelerate launch`; null is configs/accelerate/multinode.yaml.
        partition: Default of --partition.
        account: Default of --account.
        qos: Default of --qos.
        image: For `--scheduler kubernetes`: the image of the pods, built from Dockerfile, in the cluster's registry.
        volumes: For Kubernetes: persistent volume claims by path in the pods. With several nodes, the claims of run
            folder and shards must be ReadWriteMany.
        memory: For Kubernetes: the memory request of a pod, such as `500Gi`; null leaves it to the cluster.
        host_python: A Python 3.9 or newer on the nodes, outside of any container, which records the attempts. null is
            `python` without a container, and python3 with one.
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
    def contained_interpreter(self) -> str:
        """The interpreter on the nodes, with the command that starts it in the container."""
        return " ".join(filter(None, [self.container, self.interpreter]))

    @property
    def restarts_python(self) -> str:
        """The interpreter that runs mstat/cluster/restarts.py on the batch host."""
        contained = self.container or any(flag.startswith("--container") for flag in self.srun)
        return self.host_python or ("python3" if contained else self.interpreter)

    @property
    def root(self) -> str | None:
        """The path of the repository on the nodes; None if mstat is installed there."""
        return self.project or (str(PROJECT) if IS_CLONE else None)

    def command(self, name: str) -> str:
        """Return the words for Python, or `accelerate launch`, that start a command on the nodes."""
        return f"-m mstat {name}" if self.root is None else f"{shlex.quote(self.root)}/launch/{name}.py"

    def accelerate_file(self, name: str) -> str:
        """Return the path on the nodes of a YAML of `accelerate launch`, as a word of the shell."""
        if self.accelerate is not None:
            return shlex.quote(self.accelerate)
        if self.root is not None:
            return shlex.quote(f"{self.root}/configs/accelerate/{name}")
        return f'"$({self.contained_interpreter} -m mstat configs accelerate/{name})"'

    def variables(self) -> dict[str, str]:
        """Return the environment variables of every process."""
        if not self.interface:
            return self.environment
        interfaces = {"GLOO_SOCKET_IFNAME": self.interface, "NCCL_SOCKET_IFNAME": f"={self.interface}"}
        return {**interfaces, **self.environment}

    def exports(self) -> list[str]:
        """Return the lines of shell that export `variables`."""
        return [f"export {name}={shlex.quote(value)}" for name, value in self.variables().items()]

    def python_path(self) -> str:
        """Return the assignment of PYTHONPATH that lets Python find the repository; empty if mstat is installed."""
        return "" if self.root is None else f" PYTHONPATH={shlex.quote(self.root)}${{PYTHONPATH:+:$PYTHONPATH}}"


def load_site(path: Path | None) -> Site:
    """Read a site from a YAML file; None is a site with this machine's Python and the defaults.

    Raises:
        UserError: If the file is not a site; the message names the key.
    """
    if path is None:
        return Site()
    with path.open("rb") as file:
        text = file.read(MOST_BYTES).decode("utf-8", errors="replace")
    content = parse_plain_yaml(text, str(path))
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: not a site; configs/sites/ has examples")
    values = {str(key): value for key, value in (content or {}).items() if value is not None}
    for key, value in values.items():
        _check(path, key, value)
    return _expanded(Site(**values))


def _check(path: Path, key: str, value: Any) -> None:
    """Refuse an unknown key and a value of a wrong type. Nothing that the file names is imported."""
    kind = get_type_hints(Site).get(key)
    if kind is None:
        near = difflib.get_close_matches(key, get_type_hints(Site), n=1, cutoff=0.4)
        raise UserError(f"{path}: unknown key {key!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    if kind == list[str]:
        what, words = "a list of strings", value if isinstance(value, list) else [None]
    elif kind == dict[str, str]:
        what, words = "a mapping of strings", [*value, *value.values()] if isinstance(value, dict) else [None]
    else:
        what, words = "a string", [value]
    odd = [word for word in words if not isinstance(word, str)]
    if odd:
        raise UserError(f"{path}: {key} must be {what} (YAML reads {odd[0]!r:.50} as another type: quote it)")
    if key not in ("setup", "container") and any(breaks_lines(str(word)) for word in words):
        raise UserError(f"{path}: {key} must be {what} without line breaks")


def _expanded(site: Site) -> Site:
    """Expand `~` in paths: the batch script quotes these values, and so no shell expands them."""
    for name in ("python", "project", "accelerate", "host_python"):
        if value := getattr(site, name):
            setattr(site, name, expand(value))
    for name, value in site.environment.items():
        if value.startswith("~/"):
            site.environment[name] = expand(value)
    return site
