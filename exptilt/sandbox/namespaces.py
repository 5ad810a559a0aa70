"""The launcher: builds a small read-only view of the file system in new namespaces, and becomes `first.py` in it.

A script, not a module of the library: it is the first program of a fresh process, since namespaces belong to a whole process
and the library has threads. It does with the standard library what bubblewrap does, and needs only a kernel that lets its user
create namespaces. Steps: a new user, mount, process, network, IPC, host-name and cgroup namespace; a fork, whose child
is process 1; a new root on a tmpfs with only the given paths bound into it, read-only; a scratch tmpfs of limited size; the old
root taken away; all capabilities dropped; then `first.py`.

Outside, an ordinary user stays the same user, though its number inside is another. Root becomes the user 65534 (nobody) outside
too: the kernel does not limit root's number of processes, and a program that broke out would be root.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 4096, 16384, 1 << 18, 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, AT_FDCWD, AT_RECURSIVE = 1, 2, 4, -100, 0x8000
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (1 << bit for bit in (17, 25, 26, 27, 28, 29, 30))
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
MOUNT_SETATTR = 442  # on every architecture
DEVICES = ("null", "full", "random", "urandom")
INSIDE, NOBODY = 1000, 65534
LIBC = ctypes.CDLL(None, use_errno=True)


class MountAttributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user_namespace")]


def check(result: int, what: str) -> None:
    """Raise OSError where a call of the C library failed."""
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    given = [None if value is None else value.encode() for value in (source, target, kind, options)]
    check(LIBC.mount(given[0], given[1], given[2], ctypes.c_ulong(flags), given[3]), f"mounting {source or kind} on {target}")


def freeze(target: str, attributes: int, recursive: bool) -> None:
    """Take rights away from a mount, and with `recursive` from those below it; a namespace like ours cannot get them back."""
    record = MountAttributes(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(record))
    done = LIBC.syscall(ctypes.c_long(MOUNT_SETATTR), AT_FDCWD, target.encode(), flags, ctypes.byref(record), size)
    check(done, f"making {target} read-only")


def enter_namespaces() -> None:
    """New namespaces of every kind, with this process's user known as INSIDE in them; root becomes NOBODY later.

    A helper that stays outside writes the map of users: from inside only the process's own user may be mapped.
    """
    user, group = os.geteuid(), os.getegid()
    maps = {"uid_map": f"{INSIDE} {user} 1", "setgroups": "deny", "gid_map": f"{INSIDE} {group} 1"}
    if user == 0:
        maps = dict.fromkeys(("uid_map", "gid_map"), f"0 0 1\n{INSIDE} {NOBODY} 1")
    wait, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        if os.read(wait, 1) == b"g":
            for name, content in maps.items():
                with open(f"/proc/{os.getppid()}/{name}", "w") as file:
                    file.write(content)
        os._exit(0)
    check(LIBC.unshare(NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP), "making namespaces")
    os.write(go, b"g")
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("the map of users could not be written")


def build(view: list[tuple[str, str | None]], hidden: list[str], scratch: str, size: int) -> None:
    """Make the new root on a tmpfs, with the old one beside it until the paths of `view` are bound; `hidden` are shown empty."""
    mount(None, "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for folder in ("/tmp/new", "/tmp/old"):
        os.mkdir(folder)
    mount("/tmp/new", "/tmp/new", flags=MS_BIND | MS_REC)
    change_root("/tmp", "/tmp/old")
    for path, link in view:
        target = "/new" + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if link is not None:
            os.symlink(link, target)
        else:
            bind("/old" + path, target, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
    for path in hidden:
        mount("tmpfs", "/new" + path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4k")
        freeze("/new" + path, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)
    os.mkdir("/new/dev")
    for name in DEVICES:
        bind(f"/old/dev/{name}", f"/new/dev/{name}", ATTR_RDONLY | ATTR_NOSUID)
    os.symlink(scratch, "/new/dev/shm")  # for semaphores, in memory that is counted
    for folder in ("/new/proc", "/new" + scratch):
        os.mkdir(folder)
    # Only the processes of this namespace, and nothing about the machine.
    mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid")
    owner = f"uid={INSIDE},gid={INSIDE}"
    mount("tmpfs", "/new" + scratch, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=700,size={size},nr_inodes=10000,{owner}")
    check(LIBC.umount2(b"/old", MNT_DETACH), "taking the old root away")
    change_root("/new", "/new")
    check(LIBC.umount2(b"/", MNT_DETACH), "taking the first root away")
    freeze("/", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)


def bind(source: str, target: str, attributes: int) -> None:
    """Show a file or a folder of the old root at `target`."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, flags=MS_BIND | MS_REC)
    freeze(target, attributes, recursive=True)


def change_root(new: str, old: str) -> None:
    """Make `new` the root, with the old one at `old`."""
    os.chdir(new)
    check(LIBC.pivot_root(new.encode(), old.encode()), f"changing the root to {new}")
    os.chdir("/")


def drop_rights() -> None:
    """Become the user INSIDE without any capability, now or after any exec."""
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)  # the last ones do not exist
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(INSIDE, INSIDE, INSIDE)
        os.setresuid(INSIDE, INSIDE, INSIDE)


def main(plan: dict[str, Any], report: int) -> None:
    """plan: "view", "hidden", "scratch", "size", "arguments" and "environment". report: the descriptor for what goes wrong."""
    try:
        LIBC.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        enter_namespaces()
        first = os.fork()
        if first:
            os.close(report)
            os.waitpid(first, 0)
            os._exit(0)
        os.umask(0o022)
        build(plan["view"], plan["hidden"], plan["scratch"], plan["size"])
        check(LIBC.sethostname(b"sandbox", 7), "naming the host")
        drop_rights()
        # After the change of user, which would forget it.
        LIBC.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        os.execve(plan["arguments"][0], plan["arguments"], plan["environment"])
    except Exception as error:  # noqa: BLE001 (whatever is wrong, the host must hear it)
        os.write(report, (json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n").encode())
        os._exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
