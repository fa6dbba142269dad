"""Batch scripts for Slurm, which users can read, change and submit by hand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mstat.cluster.job import LAUNCHED, Job
from mstat.cluster.restarts import CANCELLED, DONE, FOLDER, REQUEUE, RESTART
from mstat.cluster.sites import PROJECT, Site
from mstat.foreign_messages import JOB_PENDING

WIDTH = 110
LATE_SECONDS = 90  # for the other nodes to end after one has ended: a rank has 30 s to save, plus Slurm's KillWait
TITLES = {
    "train": "Training of",
    "pretrain": "Pretraining of",
    "evaluate": "Evaluation of",
    "reproduce": "Experiment of the paper in",
    "shards": "Build of shards with job folder",
    "collect": "Mean over the runs in",
}


def batch_script(job: Job, site: Site) -> str:
    """Return the text of a Slurm batch script."""
    each = f"{job.gpus_per_node} GPUs" if job.gpus_per_node else f"{job.processes_per_node} processes on CPUs"
    parts = [
        ["#!/bin/bash", f"# {TITLES[job.kind]} {job.folder}, {job.nodes} x {each}; written by launch/submit.py."],
        [f"#SBATCH {option}" for option in directives(job, site)],
        ["", "# --- the site", *site.setup, *site.exports()],
        ["", "# --- the job", *_variables(job, site)],
        *(["", *lines] for lines in functions(job, site).values()),
        ["", LOOP.replace("@FUNCTIONS@", " ".join(functions(job, site)))],
    ]
    return "\n".join(line for part in parts for line in part)


def functions(job: Job, site: Site) -> dict[str, list[str]]:
    """Return the lines of the functions that every node runs, by name, in the order in which they run."""
    result = {"work": _function("work", site, _work(job, site))}
    if job.preflight and job.kind in LAUNCHED:
        result = {"preflight": _function("preflight", site, _preflight(job, site)), **result}
    return result


def directives(job: Job, site: Site) -> list[str]:
    """Return the options for the #SBATCH lines."""
    folder = str(job.folder / FOLDER).replace("%", "%%")  # Slurm expands % in names of logs
    options = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": job.gpus_per_node or None,
        "cpus-per-task": job.cpus_per_process * job.processes_per_node,
        "time": job.time,
        "partition": job.partition or site.partition,
        "account": job.account or site.account,
        "qos": job.qos or site.qos,
        "array": _array(job),
        "chdir": job.directory,
        "output": f"{folder}/{job.log}-{'%j' if job.array is None else '%A_%a'}.log",
        "open-mode": "append",
        "signal": f"B:USR1@{job.stop_before}",
    }
    given = [f"--{name}={shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    return [*given, "--requeue", *site.sbatch, *job.sbatch]


def _array(job: Job) -> str | None:
    if job.array is None:
        return None
    first, last = job.array
    return f"{first}-{last}" + (f"%{job.array_limit}" if job.array_limit else "")


def _variables(job: Job, site: Site) -> list[str]:
    # The SLURM_JOB_ID of an array's last element is the id of the whole array, which must not be requeued.
    number = "$SLURM_JOB_ID" if job.array is None else "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    limits = f"--requeue-limit {job.requeue_limit} --idle-limit {job.idle_limit}"
    flags = ["--kill-on-bad-exit=1", "--overlap", "--ntasks-per-node=1", "--label", *site.srun]
    flags.append(f"--cpus-per-task={job.cpus_per_process * job.processes_per_node}")
    program = f"{shlex.quote(str(PROJECT))}/mstat/cluster/restarts.py"
    return [
        f"export RUN={job.attempts_folder}",
        f"job={number}",
        _guard(site.restarts_python),
        f'log={shlex.quote(str(job.folder / FOLDER / job.log))}-"$job.log"',
        "attempt() {  # begin | end: record it; the exit status says what follows",
        f'  local what=$1; shift; {site.restarts_python} {program} "$what" "$RUN" \\',
        f'    --kind {job.kind} --job "$job" --log "$log" {limits} "$@"',
        "}",
        f"step=(srun {' '.join(flags)})",
        'NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste --serial --delimiters=,)',
        "export NODES MAIN=${NODES%%,*}",
        f"export PYTHONUNBUFFERED=1{site.python_path()}",
    ]


def _function(name: str, site: Site, command: Sequence[str]) -> list[str]:
    """Return a function of the script: it first checks interpreter and run folder, for a short error message."""
    guards = [
        _guard(site.contained_interpreter),
        'test -w "$RUN" || { echo "error: $(hostname): $RUN does not exist or is not writable" >&2; exit 1; }',
    ]
    return [f"{name}() {{  # on every node", *(f"  {line}" for line in [*guards, *command]), "}"]


def _guard(python: str) -> str:
    message = f"error: $(hostname): this Python does not run: {python}"
    return f'{python} -c "" 2>/dev/null || {{ echo "{message}" >&2; exit 1; }}'


def _work(job: Job, site: Site) -> list[str]:
    python = site.contained_interpreter
    part = "" if job.array is None else f' --array-task "$SLURM_ARRAY_TASK_ID/{job.array[1]}"'
    if job.kind == "collect":
        return wrapped(f"exec {python} -m mstat.cluster.collect", job.arguments)
    if job.kind == "shards":
        return wrapped(f"exec {python} -m shards", job.arguments, part)
    return _launched(f"{python} -m accelerate.commands.launch", job, site, part)


def _preflight(job: Job, site: Site) -> list[str]:
    """Return the launch checks, which take the command line of the launcher."""
    checks = f"{site.contained_interpreter} {site.command('preflight')}"
    checks += f' --expect-processes {job.num_processes} --hosts "$NODES"'
    return _launched(checks, job, site, "", port="$((PORT + 1))")


def _launched(launcher: str, job: Job, site: Site, part: str, port: str = "$PORT") -> list[str]:
    if job.array is not None and job.kind != "reproduce":
        part = ' --run "$RUN" --seed "$SLURM_ARRAY_TASK_ID"'
    return [
        'trap "" USR1  # it would kill the launcher; the ranks handle it',
        "trap : TERM  # the launcher handles it, and this shell waits for the launcher",
        f"{launcher} \\",
        *(f"  {line} \\" for line in accelerate_flags(job, site, port=port)),
        *wrapped(f"  {site.command(job.kind)}", job.arguments, f"{part} \\"),
        f'    || {{ status=$?; touch "$RUN/{FOLDER}/ended"; exit $status; }}',
    ]


def accelerate_flags(job: Job, site: Site, *, rank: str = "$SLURM_NODEID", port: str = "$PORT") -> list[str]:
    """Return lines of flags of `accelerate launch`. The script sets MAIN, PORT and the variable in `rank`."""
    alone = job.num_processes == 1 and job.zero is None and site.accelerate is None
    flags = [f"--config_file {site.accelerate_file('single.yaml' if alone else 'multinode.yaml')}"]
    if not alone:
        flags.append(f'--num_machines {job.nodes} --num_processes {job.num_processes} --machine_rank "{rank}"')
        flags.append(f'--main_process_ip "$MAIN" --main_process_port "{port}"')
    if job.zero is not None:
        flags.append(f"--use_deepspeed --zero_stage {job.zero}")
    return flags


def wrapped(start: str, words: Sequence[str], end: str = "") -> list[str]:
    """Wrap a command over several lines, with each word quoted."""
    lines, line = [], start
    for word in words:
        quoted = shlex.quote(word)
        if len(line) + len(quoted) > WIDTH:
            lines.append(f"{line} \\")
            line = "   "
        line += f" {quoted}"
    return [*lines, line + end]


LOOP = f"""\
# --- the same in every script
stop=0; trap stop=1 USR1  # Slurm sends USR1 before the time limit

run() {{  # FUNCTION on every node
  local id seconds=0 late=0
  rm -f "$RUN/{FOLDER}/ended"
  export -f "$1"
  "${{step[@]}}" bash -c "$1" & id=$!
  while kill -0 $id 2>/dev/null; do
    sleep 1
    # Repeat the signal: a rank that is starting has no handler yet.
    [ $stop = 1 ] && [ $((seconds++ % 5)) = 0 ] && scancel --quiet --signal=USR1 "$job"
    # A node that has rebooted quickly has lost the step, and srun would wait for it forever.
    if [ -e "$RUN/{FOLDER}/ended" ] && [ $((late++)) -ge {LATE_SECONDS} ]; then
      scancel --quiet --signal=KILL "$job"; kill -KILL $id
    fi
  done
  wait $id
}}

reachable() {{ timeout 30 srun --overlap --ntasks-per-node=1 true >/dev/null 2>&1 && echo 1 || echo 0; }}

todo="@FUNCTIONS@"
for ((n = 0; ; n++)); do
  export PORT=$((20000 + (SLURM_JOB_ID * 7 + n) % 10000))
  attempt begin || exit 1
  for what in $todo; do [ $stop = 0 ] && run $what; status=$?; [ $status = 0 ] || break; done
  attempt end --phase $what --status $status --stopped $stop --reachable "$([ $status = 0 ] && echo 1 || reachable)"
  case $? in
    {DONE}) exit 0 ;;
    {RESTART}) todo=work ;;  # all nodes answer: start again in this allocation
    {REQUEUE}) # the controller may be unreachable for a while
      for try in {{1..20}}; do
        message=$(scontrol requeue "$job" 2>&1) && sleep 60 && break
        echo "$message"
        # Slurm has requeued the job already. A script that outlives the restart would have its node drained.
        [[ $message == *{JOB_PENDING}* ]] && break
        sleep 15
      done
      exit 1 ;;
    {CANCELLED}) scancel "$job"; sleep 60; exit 1 ;;
    *) exit 1 ;;
  esac
done
"""
