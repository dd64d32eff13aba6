"""The inside of the sandbox (`lorapar_core.sandbox`): close it, then run one program and its tests.

Run as a file by an interpreter that sees the standard library alone, so it imports nothing of ours.
It reads its job from stdin and says "ready" on stdout once nothing more can get out. The program
holds no descriptor of that; the job's proof, once the tests are through, goes to a file of its own.
What doesn't close is an error, never left open.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_KEEPS = 0x7FFF0000  # SECCOMP_RET_ALLOW
_REFUSES = 0x00050000  # SECCOMP_RET_ERRNO, or'ed with the errno
_EPERM, _ENOSYS = 1, 38
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CALL, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_CLONE_THREAD = 0x10000
_OTHER_TABLE = 0x40000000  # x86's x32 calls: the same calls under other numbers
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_BIND, _NOSUID, _NODEV = 0x1000, 2, 4
_READ_ONLY, _RECURSIVE, _AT_CWD = 1, 0x8000, -100
_CAPABILITY_VERSION_3 = 0x20080522

_CLONE3, _IO_URING_SETUP, _PIDFD_SEND_SIGNAL, _PIDFD_GETFD, _MOUNT_SETATTR = 435, 425, 424, 438, 442
# machine -> its number for seccomp, the call `clone`, and the calls that are refused: fork, vfork,
# kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, setsid, setpgid, socket, ptrace, unshare,
# setns; add_key, request_key, keyctl; process_vm_readv and process_vm_writev.
_CALLS = {
    "x86_64": (
        0xC000003E,
        56,
        (
            *(57, 58, 62, 200, 234, 129, 297, 112, 109, 41, 101, 272, 308),
            *(248, 249, 250, 310, 311),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        (
            *(129, 130, 131, 138, 240, 157, 154, 198, 117, 97, 268),
            *(217, 218, 219, 270, 271),
        ),
    ),
}
_COVERED = ("/proc", "/run", "/tmp")
"""Where processes, and named pipes of other programs, are most likely found."""


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> None:
    job = json.load(sys.stdin)
    nowhere = os.open(os.devnull, os.O_RDWR)
    limit(job["limits"])
    if sys.platform == "linux":
        if job["isolated"]:
            seal_files()
        give_up_privileges()
        refuse_calls()
    os.write(1, b"ready")
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    random.seed(0)
    # Dataclasses and pickle look a class's module up by its name.
    module = sys.modules["program"] = ModuleType("program")
    for text, name in ((job["program"], "<program>"), (job["tests"], "<tests>")):
        exec(compile(text, name, "exec", dont_inherit=True), vars(module))
    os.write(job["channel"], job["proof"].encode())
    os._exit(0)  # whatever the program left behind doesn't run


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


def seal_files() -> None:
    """In a mount namespace of our own: all read-only and without devices but /dev/null, nothing in
    `_COVERED`, and an empty folder in memory over the one we are in."""
    libc, folder = ctypes.CDLL(None, use_errno=True), Path.cwd()
    for place in filter(_can_be_covered, _COVERED):
        _mount_memory(libc, place, b"size=64k,mode=755")
    folder.mkdir(parents=True, exist_ok=True)  # it may be in one of those
    null = os.devnull.encode()
    libc.mount(null, null, None, ctypes.c_ulong(_BIND), None)
    sealed = _change_mount(libc, b"/", _RECURSIVE, gains=_READ_ONLY | _NOSUID | _NODEV)
    _require(sealed, "make files read-only")
    _change_mount(libc, null, 0, loses=_NODEV)  # where that fails there is one file less
    _mount_memory(libc, str(folder), b"size=16m,nr_inodes=256,mode=700")
    os.chdir(folder)


def _can_be_covered(place: str) -> bool:
    """Whether it is there, and the interpreter and its library aren't in it."""
    needed = (sys.executable, sys.prefix, sys.base_prefix, os.__file__)
    inside = any(Path(path).resolve().is_relative_to(place) for path in needed)
    return Path(place).is_dir() and not inside


def _mount_memory(libc: Any, folder: str, options: bytes) -> None:
    flags = ctypes.c_ulong(_NOSUID | _NODEV)
    mounted = libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options)
    _require(mounted == 0, f"mount a folder in memory over {folder}")


def _change_mount(libc: Any, place: bytes, how: int, *, gains: int = 0, loses: int = 0) -> bool:
    attributes = struct.pack("=4Q", gains, loses, 0, 0)
    done = libc.syscall(_MOUNT_SETATTR, _AT_CWD, place, how, attributes, len(attributes))
    return bool(done == 0)


def give_up_privileges() -> None:
    """Drop every capability, and gain none from any program."""
    libc = ctypes.CDLL(None, use_errno=True)
    _require(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "forgo new privileges")
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _require(libc.capset(header, bytes(24)) == 0, "drop capabilities")


def refuse_calls() -> None:
    """Refuse new processes (threads are kept), signals, sockets, keyrings, other processes' memory,
    and other ways to reach out."""
    machine = os.uname().machine
    if machine not in _CALLS:
        raise OSError(f"no list of system calls for {machine}; known: {', '.join(_CALLS)}")
    instructions = _instructions(*_CALLS[machine])
    program = _Filter(len(instructions), b"".join(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    installed = libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
    _require(installed == 0, "refuse system calls")


def _instructions(architecture: int, clone: int, refused: tuple[int, ...]) -> list[bytes]:
    """The filter, in classic BPF: (code, jump if true, jump if false, operand) each."""
    no, missing = (_RETURN, 0, 0, _REFUSES | _EPERM), (_RETURN, 0, 0, _REFUSES | _ENOSYS)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        no,
        (_LOAD, 0, 0, _CALL),
        (_IF_AT_LEAST, 0, 1, _OTHER_TABLE),
        no,
    ]
    for number in (*refused, _IO_URING_SETUP, _PIDFD_SEND_SIGNAL, _PIDFD_GETFD):
        program += [(_IF_EQUAL, 0, 1, number), no]
    # The C library makes do with clone, whose flags, unlike those of clone3, a filter can read.
    program += [(_IF_EQUAL, 0, 1, _CLONE3), missing]
    program += [(_IF_EQUAL, 0, 3, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    program += [(_IF_ANY, 1, 0, _CLONE_THREAD), no, (_RETURN, 0, 0, _KEEPS)]
    return [struct.pack("=HBBI", *instruction) for instruction in program]


def _require(done: bool, what: str) -> None:
    if not done:
        raise OSError(f"can't {what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
