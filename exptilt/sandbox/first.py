"""The first process inside the sandbox: sets the limits, starts the program, watches it, and ends everything with it.

A script, not a module of the library: it runs as process 1 of the new process namespace, where exptilt cannot be seen,
so it uses the standard library alone. `run.py` gives it two descriptors: the settings as JSON, and the report, to which
it writes {"started": true} once all is in place, then {"stopped", "status", "cpu", "memory"}; or {"error"} before that.
When it exits the kernel kills every process that is left in the namespace.

It cannot be attacked from inside: the kernel drops signals that a namespace sends to its first process, and it is marked
as not dumpable, so that its memory and descriptors are closed to processes of the same user.
"""

from __future__ import annotations

import binascii
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 22, 36, 38
SECCOMP_MODE_FILTER = 2
LIBC = ctypes.CDLL(None, use_errno=True)
TICK = os.sysconf("SC_CLK_TCK")
FILE = 1024  # bytes that the kernel needs for a file in memory, were it empty
ROUND = 1.0  # seconds; one round of the watch that took longer was frozen with the whole sandbox, and counts as no more


class Filter(ctypes.Structure):
    """struct sock_fprog: a seccomp filter and how many instructions it has."""

    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def prctl(option: int, value: int, extra: Any = 0) -> None:
    """The C function of that name, raising OSError."""
    if LIBC.prctl(option, ctypes.c_ulong(value), extra, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def close_in(code: bytes) -> None:
    """Give up what no program here needs, for this process and all its children, for good."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should the machine run out of memory, the kernel takes the sandbox first
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = Filter(len(code) // 8, code)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))
    prctl(PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_walls() -> None:
    """Trust no launcher: check that every wall stands, and raise where one does not."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    with open("/proc/self/net/dev") as file:
        devices = [line.split(":")[0].strip() for line in file.read().splitlines()[2:]]
    walls = {
        "a process namespace": os.getpid() == 1,
        "an ordinary user": os.getuid() != 0,
        "no capabilities": not any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")),
        "no new privileges": status["NoNewPrivs"] == "1",
        "a filter of system calls": status["Seccomp"] == "2",
        "a network namespace": set(devices) <= {"lo"},
        "a host name of its own": os.uname().nodename == "sandbox",
        "a read-only root": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "no home folders": not os.path.exists("/home") and not os.path.exists("/etc/passwd"),
    }
    if missing := [name for name, stands in walls.items() if not stands]:
        raise RuntimeError(f"the sandbox lacks {', '.join(missing)}")


def write_files(files: dict[str, str]) -> None:
    """Put the program and its files into the current folder, which is the scratch folder."""
    for name, content in files.items():
        os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
        with open(name, "wb") as file:
            file.write(binascii.a2b_base64(content))


def start(arguments: list[str], environment: dict[str, str], limits: dict[str, int]) -> int:
    """Fork, take the limits, become the program; the process id of the child."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        os.execve(arguments[0], arguments, environment)
    except OSError as error:
        os.write(2, f"the program could not be started: {error}\n".encode())
    os._exit(127)


def survey() -> tuple[float, int, set[int]]:
    """CPU seconds and resident bytes of all descendants together, and their process ids.

    CPU time counts processes that have ended, as long as somebody waited for them; memory counts a page once for each
    process that holds it. The list of processes is read until none is new, so that memory cannot pass from child to child
    behind the survey.
    """
    parents, ticks, memory = {}, {}, {}
    while new := {int(name) for name in os.listdir("/proc") if name.isdecimal()} - parents.keys():
        for pid in new:
            parents[pid], ticks[pid], memory[pid] = process(pid)
    ours, generation = set(), {os.getpid()}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        ours |= generation
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(ticks[pid] for pid in ours) / TICK + reaped.ru_utime + reaped.ru_stime
    return cpu, sum(memory[pid] for pid in ours), ours


def process(pid: int) -> tuple[int, int, int]:
    """The parent of a process, its CPU time in ticks, and its memory in bytes; all 0 where it is gone.

    Where the first thread of a process has ended, the process still has the memory, and only the other threads show it.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(") ")[2].split()
        memory = memory_of(f"/proc/{pid}")
        if memory is None:
            each = (memory_of(f"/proc/{pid}/task/{thread}") for thread in os.listdir(f"/proc/{pid}/task"))
            memory = max((found for found in each if found is not None), default=0)
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0, 0
    return int(fields[1]), sum(map(int, fields[11:15])), memory


def memory_of(folder: str) -> int | None:
    """Bytes that a process or thread holds, resident or swapped out; None where it has none, for it is a zombie or gone."""
    try:
        with open(f"{folder}/status", "rb") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    held = [int(line.split()[1]) for line in lines if line.startswith((b"VmRSS:", b"VmSwap:"))]
    return 1024 * sum(held) if held else None


def reap(child: int | None) -> int | None:
    """Reap ended children; the wait status of `child` if it is among them."""
    status = None
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            status = found[1] if found[0] == child else status
    except ChildProcessError:
        pass  # nobody is left
    return status


def files_in_scratch() -> int:
    """How many files the current folder's file system holds."""
    system = os.statvfs(".")
    return system.f_files - system.f_ffree


def watch(child: int, report: int, walls: bool, seconds: float, cpu_seconds: float, memory: int) -> dict[str, Any] | None:
    """Wait for the program's end or the first limit that it passes; the fields of the report.

    When the other end of the report is closed, nobody waits for the program any more, and the watch ends.
    """
    poll, spent, most, began = select.poll(), 0.0, 0, time.monotonic()
    poll.register(os.pidfd_open(child), select.POLLIN)
    poll.register(report, 0)
    while True:
        status = reap(child)
        before, began = began, time.monotonic()
        spent += min(ROUND, began - before)
        used, resident, _ = survey()
        resident += FILE * files_in_scratch() if walls else 0
        most = max(most, resident)
        over = {"memory": resident > memory, "cpu": used > cpu_seconds, "time": spent > seconds}
        stopped = next((limit for limit, passed in over.items() if passed), None) if status is None else None
        if status is not None and os.waitstatus_to_exitcode(status) == -signal.SIGXCPU:
            stopped = "cpu"
        if status is not None or stopped:
            return {"stopped": stopped, "status": status, "cpu": used, "memory": most}
        # Where there are many processes a survey takes long: spend a tenth of the time on it.
        pause = max(0.01, 9 * (time.monotonic() - began))
        if any(event & select.POLLERR for _, event in poll.poll(1000 * pause)):
            return None


def end() -> None:
    """Kill all descendants. In a process namespace the exit of its first process kills them too, without fail."""
    for _ in range(1000):
        descendants = survey()[2]
        if not descendants:
            return
        for pid in descendants:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap(None)


def main(settings: int, report: int) -> None:
    for descriptor in (settings, report):
        os.set_inheritable(descriptor, False)
    say = os.fdopen(report, "w", buffering=1)
    try:
        with os.fdopen(settings, "rb") as file:
            given = json.load(file)
        os.chdir(given["scratch"])
        close_in(bytes.fromhex(given["filter"]))
        if given["walls"]:
            check_walls()
        write_files(given["files"])
    except Exception as error:  # noqa: BLE001 (whatever is wrong, the host must hear it)
        say.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        sys.exit(1)
    say.write(json.dumps({"started": True}) + "\n")
    child = start(given["arguments"], given["environment"], given["rlimits"])
    outcome = watch(child, report, given["walls"], **given["limits"])
    end()
    if outcome is not None:
        say.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
