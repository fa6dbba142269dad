"""Timeout of every process group, for which torch has no public function.

`tests/mstat/distributed/test_foreign_api.py` fails if a new version of torch breaks this use.
"""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist


def set_timeouts(timeout: timedelta) -> None:
    """Set the timeout of collectives in all groups; DeepSpeed's groups otherwise have torch's default of 30 minutes."""
    if dist.is_initialized():
        for group in dist.distributed_c10d._world.pg_map:
            dist.distributed_c10d._set_pg_timeout(timeout, group)
