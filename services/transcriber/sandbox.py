"""What a process gives up before it touches what a stranger has sent. Linux.

Nothing here can be taken back. Each layer stands alone: the filter of system calls needs no privilege and is there on
every common kernel, a network name space of its own needs one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000

_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 13, 0x80000000  # 13: EACCES
_LOAD, _IF_EQUAL, _IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_X32 = 0x40000000

# Numbers of the calls that open files, reach the network, make processes or act on others: openat, openat2, open,
# creat, socket, socketpair, connect, bind, execve, execveat, fork, vfork, clone, clone3, ptrace, kill, unlink(at),
# rename(at, at2), link(at), symlink(at), mkdir(at), mknod(at), chmod, fchmodat, io_uring_setup, bpf, mount, unshare,
# setns, process_vm_readv, process_vm_writev, truncate.
_CALLS: dict[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        (257, 437, 2, 85, 41, 53, 42, 49, 59, 322, 57, 58, 56, 435, 101, 62, 87, 263, 82, 264, 316, 86, 265, 88, 266,
         83, 258, 133, 259, 90, 268, 425, 321, 165, 272, 308, 310, 311, 76),
    ),
    "aarch64": (
        0xC00000B7,
        (56, 437, 198, 199, 203, 200, 221, 281, 220, 435, 117, 129, 35, 38, 276, 37, 36, 34, 33, 53, 425, 280, 40, 97,
         268, 270, 271, 45),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may use: bytes of address space, seconds of processor, bytes of one file."""

    memory_bytes: int
    cpu_s: int
    file_bytes: int


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however it dies."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent died before this process was up")


def confine(limits: Limits) -> None:
    """Set limits that hold from now on, and be nice to the rest of the machine."""
    os.nice(10)
    _limit(resource.RLIMIT_AS, limits.memory_bytes)
    # The first signal says that the time is up, the second cannot be caught.
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)


def leave_network() -> bool:
    """Go where there is no network. False if that is not allowed here. Only before there are threads."""
    libc = _libc()
    return bool(libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def give_up_calls() -> bool:
    """Give up the network, other processes and every file that is not open yet; False if this kernel cannot do it.

    Whatever is to be imported must be.
    """
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    architecture, refused = known
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_GREATER_OR_EQUAL, 0, 1, _X32),  # the second set of numbers that x86 has
        (_RETURN, 0, 0, _KILL),
    ]
    for number in refused:
        lines += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    program = b"".join(struct.pack("<HBBI", *line) for line in lines)
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    loaded = Program(len(lines), ctypes.cast(code, ctypes.c_void_p))
    libc = _libc()
    return bool(
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0) == 0
    )


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
