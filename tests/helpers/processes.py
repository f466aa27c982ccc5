"""Processes that start at once: forks of the tests' own, and programs in one that has imported nothing but PyTorch."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


def child(work: Callable[[], object]) -> Any:
    """A process that does the work; forked, so that it starts at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
    return process


@dataclass(frozen=True)
class Ended:
    """What a program returned and wrote."""

    returncode: int
    stdout: str
    stderr: str


def forked(work: Callable[[], object]) -> Ended:
    """What comes of work in a child, which has all that the tests have imported."""
    with tempfile.TemporaryDirectory() as own:
        files = Path(own) / "out", Path(own) / "err"

        def redirected() -> None:
            for handle, file in enumerate(files, start=1):
                os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), handle)
            sys.stdout, sys.stderr = (os.fdopen(handle, "w", closefd=False) for handle in (1, 2))
            work()

        process = child(redirected)
        process.join()
        return Ended(process.exitcode, *(file.read_text() for file in files))


_SERVER = """
import json, os, sys, torch
told = os.dup(1)
for line in sys.stdin:
    job = json.loads(line)
    if not (pid := os.fork()):
        for handle, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
            os.dup2(os.open(name, os.O_RDWR), handle)
        sys.stdin.close()
        os.chdir(job["folder"])
        sys.argv = ["-c", *job["arguments"]]
        code = 1
        try:
            exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.write(told, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@cache
def _server() -> Any:
    """A process with PyTorch, and nothing of this project, in its memory."""
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, "-c", _SERVER], env=surroundings, **pipes)
    atexit.register(server.communicate)  # which ends it
    return server


def python(code: str, *arguments: object, folder: Path) -> Ended:
    """Run a program as `python -c` does, in `folder`, in a fork of a process that has imported PyTorch alone.

    Each `python -c` of its own would take seconds to import PyTorch, which all of them do at first.
    """
    server = _server()
    with tempfile.TemporaryDirectory() as own:
        out, err = Path(own) / "out", Path(own) / "err"
        out.touch()
        err.touch()
        job = {"code": code, "arguments": [*map(str, arguments)], "folder": str(folder)}
        server.stdin.write(json.dumps({**job, "out": str(out), "err": str(err)}) + "\n")
        server.stdin.flush()
        return Ended(int(server.stdout.readline()), out.read_text(), err.read_text())
