"""The system calls that no program in the sandbox may make, as a filter for the kernel (seccomp, classic BPF).

A list of refusals and not of permissions: Python and the libraries it loads may go on making the ordinary calls. What is
refused is what reaches other processes or takes down their limits, makes namespaces or mounts, takes memory that no limit
counts, opens sockets other than local ones (`AF_VSOCK` would pass by the network namespace), or is known as a way into the
kernel and of no use to a program under test. A refused call fails with EPERM; clone3, whose flags a filter cannot read, with
ENOSYS, so that the C library falls back on clone. Calls of another architecture kill the process.
"""

from __future__ import annotations

import errno
import struct

from exptilt.errors import SandboxError

# Name: its number on x86_64, on aarch64 (asm/unistd_64.h and asm-generic/unistd.h of Linux).
_REFUSED = {
    # reading, writing and stopping other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # namespaces, mounts and roots
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # memory that is in no process's resident set
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # large parts of the kernel that a program under test does not need
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "syslog": (103, 116),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "swapon": (167, 224),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "setpriority": (141, 140),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
# Calls with the one first argument that is let through.
_AF_UNIX, _MYSELF = 1, 0
_ONLY = {
    "socket": (41, 198, _AF_UNIX),
    "socketpair": (53, 199, _AF_UNIX),
    # A program could starve the process that watches it, or have the kernel kill it, by taking its limits down.
    "prlimit64": (302, 261, _MYSELF),
    "sched_setparam": (142, 118, _MYSELF),
    "sched_setscheduler": (144, 119, _MYSELF),
    "sched_setaffinity": (203, 122, _MYSELF),
    "sched_setattr": (314, 274, _MYSELF),
}
# Anonymous memory that is mapped as shared: unmapped in part it is still there, and no process shows it.
_MMAP, _MAP_SHARED, _MAP_ANONYMOUS = (9, 222), 0x01, 0x20
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
_X32 = 0x40000000  # the bit that marks a call of x86_64's second convention
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _FOURTH_ARGUMENT = 0, 4, 16, 40  # offsets in struct seccomp_data, little-endian
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def seccomp_filter(machine: str) -> bytes:
    """The filter for a machine as `os.uname().machine` names it: an array of struct sock_filter, 8 bytes each.

    Raises SandboxError for a machine whose call numbers are not listed here.
    """
    if machine not in _MACHINES:
        raise SandboxError(
            f"the sandbox has no list of system calls for the machine {machine!r}, only for {sorted(_MACHINES)}: run it on one "
            "of these"
        )
    column, architecture = _MACHINES[machine]
    code = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, _NUMBER)]
    code += _refuse(_step(_AT_LEAST, _X32, 0, 1), errno.EPERM) if machine == "x86_64" else []
    code += _refuse(_step(_EQUAL, _CLONE3[column], 0, 1), errno.ENOSYS)
    for numbers in _REFUSED.values():
        code += _refuse(_step(_EQUAL, numbers[column], 0, 1), errno.EPERM)
    code += _look_at_argument(_CLONE[column], _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1))
    for *numbers, argument in _ONLY.values():
        code += _look_at_argument(numbers[column], _step(_EQUAL, argument, 1, 0))
    code += [_step(_EQUAL, _MMAP[column], 0, 5), _step(_LOAD, _FOURTH_ARGUMENT), _step(_ANY_BIT, _MAP_ANONYMOUS, 0, 2)]
    code += [*_refuse(_step(_ANY_BIT, _MAP_SHARED, 0, 1), errno.EPERM), _step(_RETURN, _ALLOW)]
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the last two say how many instructions to skip."""
    return struct.pack("<HBBI", operation, if_true, if_false, value)


def _refuse(test: bytes, error: int) -> list[bytes]:
    """Fail with `error` unless the test skips one instruction."""
    return [test, _step(_RETURN, _ERROR | error)]


def _look_at_argument(number: int, test: bytes) -> list[bytes]:
    """For the call `number`, fail unless the test of its first argument skips one instruction; then allow."""
    refuse = _refuse(test, errno.EPERM)
    return [_step(_EQUAL, number, 0, 4), _step(_LOAD, _FIRST_ARGUMENT), *refuse, _step(_RETURN, _ALLOW)]
