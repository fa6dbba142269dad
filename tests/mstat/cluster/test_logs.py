"""The cause of a failure in a job's log."""

from __future__ import annotations

from pathlib import Path

from mstat.cluster.logs import BEGIN, last_failure, last_slurm_error

RANKS = """\
0: step 1/20  epoch 0  loss 13.00
1: Traceback (most recent call last):
0: error: rank 1 (host n2, pid 7): KeyError: 'no'; the last good checkpoint is runs/a/checkpoints/step-000000005
1:   File "mine.py", line 3, in build
1:     return sizes['no']
1: KeyError: 'no'
1: Traceback (most recent call last):
1:   File "launch.py", line 1423, in <module>
1:     main()
1: torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
1: ============
srun: error: n2: task 1: Exited with exit code 1
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_traceback_among_the_lines_of_several_nodes(tmp_path: Path) -> None:
    """The traceback has the lines of its node only, and the launcher's own traceback does not replace it."""
    assert last_failure(write(tmp_path / "log", RANKS)) == (
        "Traceback (most recent call last):\n"
        '  File "mine.py", line 3, in build\n'
        "    return sizes['no']\n"
        "KeyError: 'no'"
    )


def test_the_last_attempt_counts(tmp_path: Path) -> None:
    """Failures of earlier attempts are ignored."""
    text = f"{RANKS}{BEGIN} 2 of job 7, from step 5\n0: error: runs/a: No space left on device\n"
    assert last_failure(write(tmp_path / "log", text)) == "error: runs/a: No space left on device"
    assert last_failure(write(tmp_path / "log", f"{RANKS}{BEGIN} 2 of job 7, from step 5\n0: step 6/20\n")) == ""


def test_no_message(tmp_path: Path) -> None:
    """A message of srun is the last resort; without one the result is an empty text."""
    text = "0: step 1\nsrun: error: n2: task 1: Exited with exit code 1\n=== mstat: failed\n"
    assert last_failure(write(tmp_path / "log", text)) == ""
    assert last_slurm_error(tmp_path / "log") == "srun: error: n2: task 1: Exited with exit code 1"
    assert last_failure(tmp_path / "there is none") == ""
    assert last_slurm_error(tmp_path / "there is none") == ""
