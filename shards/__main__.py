"""Build, verify and show data sets as shards: `python -m shards build | verify | info | show`.

Exit codes: 0 success, 1 bad data (each fault by file and key), 2 bad usage, 130 stopped by Ctrl-C. `MSTAT_DEBUG=1`
prints the traceback of an error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from shards.paths import path, place
from shards.records import WARNINGS, DataError, UsageError
from shards.sources import SOURCES, add_options
from shards.sources.options import positive_int, size_HW, task_of
from shards.terminal import print_anything, print_line
from shards.text import counted
from shards.workers import available_cpus


def parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main_parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    commands = main_parser.add_subparsers(dest="command", required=True)

    build = commands.add_parser("build", help="make a folder of shards from a data set")
    sources = build.add_subparsers(dest="source_name", metavar="SOURCE", required=True, help=", ".join(SOURCES))
    for name, module in SOURCES.items():
        source = sources.add_parser(
            name,
            help=(module.__doc__ or "").splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(source, module)
        _add_writing(source)

    verify = commands.add_parser("verify", help="check every byte of a folder of shards")
    verify.add_argument("folder", type=path, metavar="DIR")
    verify.add_argument("--decode", action="store_true", help="also decode every picture")
    _add_workers(verify)

    info = commands.add_parser("info", help="show the content of a folder of shards")
    info.add_argument("place", type=place, metavar="DIR", help="or a URL")
    info.add_argument("--json", action="store_true", help="for programs")

    show = commands.add_parser("show", help="draw the frames of a tracklet on one picture")
    show.add_argument("place", type=place, metavar="DIR", help="or a URL")
    show.add_argument("key", metavar="KEY", help="key of the tracklet, such as 0002C1T0001")
    show.add_argument("--out", type=path, metavar="FILE", help="default: KEY.png in the current folder")
    return main_parser


def _add_writing(source: argparse.ArgumentParser) -> None:
    source.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to make; it may exist if empty")
    source.add_argument(
        "--shard-size", type=positive_int, default=256, metavar="MB", help="approximate size (default: 256)"
    )
    source.add_argument("--size", type=size_HW, metavar="HxW", help="re-encode each frame to this size")
    source.add_argument(
        "--quality", type=positive_int, metavar="Q", help="JPEG quality with --size, 1 to 100 (default: 90)"
    )
    source.add_argument(
        "--bad-frames", choices=("fail", "drop"), default="fail", help="list bad frames and fail, or leave them out"
    )
    source.add_argument(
        "--array-task", type=task_of, metavar="I/N", help="make part I (from 1) of N, on any host; --join them later"
    )
    source.add_argument("--join", action="store_true", help="make the set from the shards of the array tasks")
    _add_workers(source)


def _add_workers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=positive_int, default=available_cpus(), metavar="N", help="processes (default: one per core)"
    )


def build(args: argparse.Namespace) -> int:
    """Make a folder of shards."""
    from rich.console import Console

    from shards.read import Reader
    from shards.shard import DEFAULT_QUALITY, Encoding
    from shards.summary import show_built, show_warnings, summary
    from shards.write import Build, Part, building, scratch_folder

    if args.quality and not args.size:
        raise UsageError("--quality needs --size, which re-encodes frames")
    if args.quality and args.quality > 100:
        raise UsageError(f"--quality {args.quality}: 1 to 100")
    if args.array_task and args.join:
        raise UsageError("--join is the last step, after all tasks; give either --array-task or --join")
    part = Part(*args.array_task) if args.array_task else None
    with building(args.out, part=part) as folder:
        args.scratch = scratch_folder(folder, part)
        source = args.read(args)
        plan = Build(
            source=source,
            folder=folder,
            shard_bytes=args.shard_size << 20,
            encoding=Encoding(args.size, args.quality or DEFAULT_QUALITY),
            drop=args.bad_frames == "drop",
            workers=args.workers,
        )
        if part:
            made = plan.write_part(part)
            where = f"{folder}: part {part.number} of {part.count}"
            print_line(f"{where} is complete: {counted(made, 'shard')}; after all parts, --join them")
            show_warnings([f"{name}: {source.facts[name]}" for name in WARNINGS if name in source.facts], Console())
            return 0
        description = plan.join() if args.join else plan.write()
    counts = description.counts
    print_line(f"{args.out}: {counts['tracklets']:,} tracklets, {counts['frames']:,} frames")
    show_built(summary(Reader(args.out)), Console())
    return 0


def verify(args: argparse.Namespace) -> int:
    """Check a folder of shards; list each fault."""
    from shards import verify as verifying

    faults = verifying.verify(args.folder, args.workers, decode=args.decode)
    for fault in faults:
        print_line(fault, file=sys.stderr)
    result = counted(len(faults), "fault") if faults else "every byte is as it was built"
    print_line(f"{args.folder}: {result}")
    return 1 if faults else 0


def info(args: argparse.Namespace) -> int:
    """Print the summary of a folder of shards."""
    from rich.console import Console

    from shards.read import Reader
    from shards.summary import show, summary

    content = summary(Reader(args.place))
    if args.json:
        print(json.dumps(content, indent=1, allow_nan=False))  # for programs; in ASCII, which controls no terminal
    else:
        show(content, Console())
    return 0


def show(args: argparse.Namespace) -> int:
    """Write a contact sheet of a tracklet."""
    from shards.contact_sheet import save, sheet
    from shards.read import Reader

    reader = Reader(args.place)
    try:
        i = reader.find(args.key)
    except KeyError:
        example = reader[0].key
        raise UsageError(f"{args.place}: no tracklet {args.key}; keys look like {example}") from None
    out = args.out or Path(f"{args.key}.png")
    save(sheet(reader, i), out)
    print_line(out)
    return 0


def main(arguments: Sequence[str] | None = None, prog: str = "python -m shards") -> int:
    """Run a command; return its exit code."""
    print_anything()
    args = parser(prog).parse_args(arguments)
    resume = "; finished shards are kept, re-run the same command to resume" if args.command == "build" else ""
    try:
        status = {"build": build, "verify": verify, "info": info, "show": show}[args.command](args)
        sys.stdout.flush()
        return status
    except DataError as error:
        return _fail(str(error), 1)
    except (UsageError, FileExistsError) as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit
        return 1
    except OSError as error:  # no space left, no permission
        where = "" if error.filename or args.command != "build" else f"{args.out}: "  # errors of a write name no file
        return _fail(f"{where}{error}{resume}", 1)
    except BrokenProcessPool:
        return _fail("a worker was killed, perhaps for lack of memory; start again with fewer --workers", 1)
    except KeyboardInterrupt:
        print_line(f"stopped{resume}", file=sys.stderr)
        return 130


def _fail(message: str, status: int) -> int:
    """Print an error, after its traceback if `MSTAT_DEBUG=1`; return the exit code."""
    if os.environ.get("MSTAT_DEBUG") == "1":
        print_line(traceback.format_exc().rstrip(), "\n\t", sys.stderr)
    print_line(f"error: {message}", "\n", sys.stderr)  # bad frames are listed in lines
    return status


if __name__ == "__main__":
    sys.exit(main())
