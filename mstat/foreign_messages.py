"""Messages of other software that mstat recognises by their text, because they come without a code or a type.

tests/mstat/test_foreign_messages.py provokes them, and so shows which one a new version has changed. Slurm's are
provoked in tests/launch/test_submit.py. Standard library only, for Python 3.9: mstat/cluster/restarts.py imports it.
"""

from __future__ import annotations

import errno
import os
import re

# gloo in torch 2.13 raises a plain RuntimeError if the peer of a collective has ended or does not answer:
#   [.../gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:58581: Connection reset by peer. This is ...
#   [.../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete
_SOCKET_ERRORS = f"{os.strerror(errno.ECONNRESET)}|{os.strerror(errno.EPIPE)}"
LOST_PEER = re.compile(f"gloo/|Connection closed by peer|Timed out waiting|{_SOCKET_ERRORS}")

# Names of errors of torch 2.13 and NCCL 2 in a message, where a log or state.json has nothing but the message:
#   DistNetworkError: failed to recv, got 0 bytes
#   ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
LOST_PEER_ERRORS = re.compile("Dist(Network|Store)Error|nccl(Remote|System)Error")

# The launcher of torch 2.13 reports a killed process in its last message:  "  exitcode  : -9 (pid: 4242)"
KILLED = re.compile(r"exitcode\s*: -(9|15|7)\b")

# Exceptions of the launchers of torch 2.13 and accelerate 1.15 after a process has failed. They do not say why.
LAUNCHER_ERRORS = ("ChildFailedError", "CalledProcessError", "SignalException", "torch.distributed.elastic")

# A full disk or quota, as every OSError names it.
DISK_FULL = re.compile("|".join(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)))

# Slurm 22.05. Its commands exit with 1 for every error.
#   scontrol show job:  "slurm_load_jobs error: Invalid job id specified", for an element "Job 7_99 not found"
#   scontrol requeue:   "Job is pending execution for job 7", if Slurm has requeued the job already
#   in a job's log:     "srun: error: n2: task 1: Killed"
UNKNOWN_JOB = re.compile(r"Invalid job id|Job \S+ not found")
JOB_PENDING = "pending"
SLURM_ERROR = re.compile(r"(srun|slurmstepd|slurmd)\b.*: error: ")

# The unpickler of torch 2.13 with weights_only=True, in an UnpicklingError or a RuntimeError:
#   Trying to load unsupported GLOBAL posix.mkdir whose module posix is blocked.
#   Cannot use ``weights_only=True`` with files saved in the legacy .tar format.
#   WeightsUnpickler error: (an empty line) Unsupported operand 255
REFUSED_CALL = re.compile(r"GLOBAL ([\w.]+)")
LEGACY_TAR = "legacy .tar"
UNPICKLER_ERROR = re.compile(r"Trying to load|Unsupported [^.]*|WeightsUnpickler error: [^.\n]*")

# jsonargparse 4 refuses an unknown setting with one of:
#   Group 'optim' does not accept option 'lrr'
#   unrecognized arguments: --lrr
#   Option 'lrr' is not accepted
UNKNOWN_KEY_IN_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
UNKNOWN_KEY = re.compile(r"unrecognized arguments: --([\w.-]+)|Option '([\w.]+)' is not accepted")

# jsonargparse 4 refuses a lone word for a list with:
#   Parser key "optim.betas": Expected a <class 'tuple'>. Got value: 0.9
NOT_A_LIST = re.compile(r"""Parser key "([\w.]+)":\s+Expected a <class 'tuple'>\. Got value: (?!None$)(.*)""")
