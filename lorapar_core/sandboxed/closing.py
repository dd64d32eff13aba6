"""Close the sandbox from inside: limits, files, privileges, system calls.

What doesn't close is an error, never left open.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from typing import Any

_KEEPS = 0x7FFF0000  # SECCOMP_RET_ALLOW
_REFUSES = 0x00050000  # SECCOMP_RET_ERRNO, or'ed with the errno
_EPERM, _ENOSYS = 1, 38
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CALL, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_CLONE_THREAD = 0x10000
_OTHER_TABLE = 0x40000000  # x86's x32 calls: the same calls under other numbers
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_BIND, _WITH_INNER, _NOSUID, _NODEV, _NO_EXEC = 0x1000, 0x4000, 2, 4, 8
_READ_ONLY, _RECURSIVE, _AT_CWD = 1, 0x8000, -100
_CAPABILITY_VERSION_3 = 0x20080522
_THREADS = 64
"""Counted for each user namespace by itself since Linux 5.14; memory bounds them as well."""

_CLONE = {"x86_64": 56, "aarch64": 220}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE3 = 435
_REFUSED: dict[str, tuple[int | None, int | None]] = {  # name -> its number on x86_64, on aarch64
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
}
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DETACH = 2
_MEETING_PLACE = "/tmp"
"""Where the new root is put together: any folder that there is."""
_WORK = "/sandbox"
"""The one folder inside that can be written to; /tmp is a link to it."""


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def close(job: dict[str, Any]) -> None:
    """Close the sandbox for good.

    `job`: the `limits`; the file system, `files`, that is "ours" to build from the paths in `sees`
    (in new namespaces), has been "built" (by bubblewrap), or is "shared" with the machine.

    Raises:
        OSError: it can't be closed.
    """
    limit(job["limits"])
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if job["files"] == "ours":
        enter_root(libc, job["sees"])
    if job["files"] != "shared":
        _mount_memory(libc, _WORK, b"size=16m,nr_inodes=256,mode=700")
        os.chdir(_WORK)
        resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))
    give_up_privileges(libc)
    refuse_calls(libc)


def limit(limits: dict[str, Any]) -> None:
    """Set the limits for good: nothing raises a hard limit but a privilege that is given up."""
    bounds = [
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ]
    if sys.platform == "linux":
        bounds.append((resource.RLIMIT_AS, limits["memory"]))
    else:
        bounds.append((resource.RLIMIT_NPROC, 0))
    for kind, most in bounds:
        resource.setrlimit(kind, (most, most))


def enter_root(libc: Any, sees: list[str]) -> None:
    """In a mount namespace of our own: a root in memory that holds these paths, read-only, and
    /dev/null. A path that is a link stays one."""
    root, old = _MEETING_PLACE, f"{_MEETING_PLACE}/old"
    _mount_memory(libc, root, b"size=1m,mode=755")
    os.mkdir(old)  # noqa: PTH102 - pathlib takes 10 ms to import
    entered = libc.syscall(_PIVOT_ROOT[_machine()], root.encode(), old.encode())
    _require(entered == 0, "enter a root of its own")
    os.chdir("/")
    for path in (*sees, os.devnull):
        _show(libc, path)
    os.mkdir(_WORK)  # noqa: PTH102
    if not os.path.exists("/tmp"):  # noqa: PTH110
        os.symlink(_WORK, "/tmp")  # noqa: PTH211
    _require(libc.umount2(b"/old", _DETACH) == 0, "leave the old root")
    os.rmdir("/old")  # noqa: PTH106
    sealed = _change_mount(libc, b"/", _RECURSIVE, gains=_READ_ONLY | _NOSUID | _NODEV)
    _require(sealed, "make files read-only")
    _change_mount(libc, os.devnull.encode(), 0, loses=_NODEV)  # else there is one file less


def _show(libc: Any, place: str) -> None:
    old = f"/old{place}"
    os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.islink(old):  # noqa: PTH114
        os.symlink(os.readlink(old), place)  # noqa: PTH115, PTH211
        return
    if os.path.isdir(old):  # noqa: PTH112
        os.makedirs(place, exist_ok=True)  # noqa: PTH103
    else:
        os.close(os.open(place, os.O_CREAT))
    flags = ctypes.c_ulong(_BIND | _WITH_INNER)
    bound = libc.mount(os.fsencode(old), os.fsencode(place), None, flags, None)
    _require(bound == 0, f"show {place}")


def _mount_memory(libc: Any, folder: str, options: bytes) -> None:
    flags = ctypes.c_ulong(_NOSUID | _NODEV | _NO_EXEC)
    mounted = libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options)
    _require(mounted == 0, f"mount a folder in memory over {folder}")


def _change_mount(libc: Any, place: bytes, how: int, *, gains: int = 0, loses: int = 0) -> bool:
    attributes = struct.pack("=4Q", gains, loses, 0, 0)
    done = libc.syscall(_MOUNT_SETATTR, _AT_CWD, place, how, attributes, len(attributes))
    return bool(done == 0)


def give_up_privileges(libc: Any) -> None:
    """Drop every capability, and gain none from any program."""
    _require(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "forgo new privileges")
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _require(libc.capset(header, bytes(24)) == 0, "drop capabilities")


def refuse_calls(libc: Any) -> None:
    """Refuse new processes (threads are kept) and programs, signals, sockets, keyrings, shared
    memory, other processes' memory, and other ways to reach out."""
    instructions = _instructions(_machine())
    program = _Filter(len(instructions), b"".join(instructions))
    installed = libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
    _require(installed == 0, "refuse system calls")


def _machine() -> str:
    machine = os.uname().machine
    if machine not in _CLONE:
        raise OSError(f"no list of system calls for {machine}; known: {', '.join(_CLONE)}")
    return machine


def _instructions(machine: str) -> list[bytes]:
    """The filter, in classic BPF: (code, jump if true, jump if false, operand) each."""
    no, missing = (_RETURN, 0, 0, _REFUSES | _EPERM), (_RETURN, 0, 0, _REFUSES | _ENOSYS)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        no,
        (_LOAD, 0, 0, _CALL),
        (_IF_AT_LEAST, 0, 1, _OTHER_TABLE),
        no,
    ]
    for numbers in _REFUSED.values():
        number = numbers[[*_CLONE].index(machine)]
        program += [] if number is None else [(_IF_EQUAL, 0, 1, number), no]
    # The C library makes do with clone, whose flags, unlike those of clone3, a filter can read.
    program += [(_IF_EQUAL, 0, 1, _CLONE3), missing]
    program += [(_IF_EQUAL, 0, 3, _CLONE[machine]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    program += [(_IF_ANY, 1, 0, _CLONE_THREAD), no, (_RETURN, 0, 0, _KEEPS)]
    return [struct.pack("=HBBI", *instruction) for instruction in program]


def _require(done: bool, what: str) -> None:
    if not done:
        raise OSError(f"can't {what}: {os.strerror(ctypes.get_errno())}")
