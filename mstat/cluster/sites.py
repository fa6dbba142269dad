"""What is particular to one cluster, in one YAML: how its environment is made, its network, its container.

configs/sites/ has some to copy; docs/cluster.md explains them.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jsonargparse
import yaml

from mstat.errors import UserError
from shards.paths import expand

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
        """The Python that runs mstat/cluster/attempts.py on the batch host."""
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
    try:
        content = yaml.safe_load(path.read_bytes()) or {}
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Site)
    try:
        return _expanded(Site(**vars(parser.parse_object(content))))
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def _expanded(site: Site) -> Site:
    """A site with the home folder for `~`: the batch script quotes these values, which keeps a shell from doing it."""
    for name in ("python", "project", "accelerate", "host_python"):
        if value := getattr(site, name):
            setattr(site, name, expand(value))
    for name, value in site.environment.items():
        if value.startswith("~/"):
            site.environment[name] = expand(value)
    return site
