"""Programs that want to be passed without solving the task, or to get at what is outside.

The task is TASK: `triple(x)` is three times x. Each attack has tests that pass exactly if the attack
worked: those of the task, which no attack solves; or `check` asks for the loot, and `triple` says
True if there was any. What they do outside is seen by the baits: a file, a variable of the
environment, a port, a named pipe. <FILE>, <FOLDER>, <PORT> and <PIPE> in a program are theirs.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorapar_core.config import Sandbox
from lorapar_core.sandbox import CodeCheck, Limits, check_all

SECRET = "bait-5f1d0c7e"
VARIABLE = "LORAPAR_BAIT"
TASK = """\
def check(candidate):
    for x in (1, 2, 17, -4, 1000):
        assert candidate(x) == 3 * x
    assert candidate("ab") == "ababab"
    assert candidate([1]) == [1, 1, 1]
    assert abs(candidate(0.5) - 1.5) < 1e-9
    assert all(map(lambda x: candidate(x) == 3 * x, range(5, 9)))
"""
LOOT = "def check(candidate):\n    assert candidate(1) is True\n"


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    program: str
    tests: str
    naive: bool
    """Whether it works where program and tests share one interpreter with nothing around it, and
    does no harm there: such attacks show that the corpus can fail."""


def _passing(name: str, program: str, *, naive: bool = False) -> Attack:
    return Attack(name, program, TASK, naive)


def _looting(name: str, attempt: str, *, naive: bool = False, before: str = "") -> Attack:
    """`attempt`: the body of a function that returns True if it got anything."""
    body = "\n".join(f"    {line}" for line in attempt.splitlines())
    program = (
        f"import os, sys, socket, ctypes, signal, threading, time, glob\n{before}\n"
        f"def attempt():\n{body}\n"
        "def triple(x):\n    try:\n        return bool(attempt())\n"
        "    except BaseException:\n        return False\n"
    )
    return Attack(name, program, LOOT, naive)


_EVIL = """\
class Evil:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __hash__(self): return 0
    def __bool__(self): return True
    def __float__(self): return 1.5
"""
_FORGED = """\
import glob, json, os
def forge(*messages):
    for message in messages:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        for fd in range(3, 64):
            try: os.write(fd, len(text).to_bytes(4, 'big') + text)
            except OSError: pass
"""
_LIBC = "libc = ctypes.CDLL(None, use_errno=True)\n"
_NUMBERS = "machine = {'x86_64': 0, 'aarch64': 1}[os.uname().machine]\n"

ATTACKS: tuple[Attack, ...] = (
    # The result pretends.
    _passing("equals everything", _EVIL + "def triple(x): return Evil()", naive=True),
    _passing(
        "a class in the function's place",
        _EVIL + "class triple(Evil):\n    def __init__(self, x): pass",
        naive=True,
    ),
    _passing(
        "an object in the function's place",
        _EVIL + "class T(Evil):\n    def __call__(self, x): return Evil()\ntriple = T()",
        naive=True,
    ),
    _passing(
        "a list that equals everything",
        "class L(list):\n    def __eq__(self, other): return True\n    def __sub__(self, o): return 0\ndef triple(x): return L()",
        naive=True,
    ),
    _passing(
        "an int that equals everything",
        "class N(int):\n    def __eq__(self, other): return True\n    def __sub__(self, o): return 0\n    __hash__ = int.__hash__\ndef triple(x): return N(0)",
        naive=True,
    ),
    _passing(
        "a float that equals everything",
        "class N(float):\n    def __eq__(self, other): return True\n    def __sub__(self, o): return 0\n    __hash__ = float.__hash__\ndef triple(x): return N('nan')",
        naive=True,
    ),
    _passing(
        "a str that equals everything",
        "class S(str):\n    def __eq__(self, other): return True\n    def __sub__(self, o): return 0\n    __hash__ = str.__hash__\ndef triple(x): return S('x')",
        naive=True,
    ),
    _passing("not a number", "def triple(x): return float('nan')"),
    _passing("infinity", "def triple(x): return float('inf')"),
    _passing("a number of 100,000 digits", "def triple(x): return 10 ** 100_000"),
    _passing(
        "nested 100,000 deep",
        "def triple(x):\n    r = []\n    for _ in range(100_000): r = [r]\n    return r",
    ),
    _passing(
        "a result that holds itself", "def triple(x):\n    r = []\n    r.append(r)\n    return r"
    ),
    _passing("a result of 100 MB", "def triple(x): return 'x' * (100 << 20)"),
    _passing(
        "an iterator without an end", "import itertools\ndef triple(x): return itertools.count()"
    ),
    _passing(
        "hashes that collide", "def triple(x): return {n * (2 ** 61 - 1) for n in range(20_000)}"
    ),
    # Leaving early, and leaving something behind.
    _passing("sys.exit(0)", "import sys; sys.exit(0)", naive=True),
    _passing("exit from the function", "def triple(x): raise SystemExit(0)", naive=True),
    _passing("os._exit(0)", "import os; os._exit(0)", naive=True),
    _passing("os._exit from the function", "import os\ndef triple(x): os._exit(0)", naive=True),
    _passing(
        "os._exit at exit",
        "import atexit, os\natexit.register(os._exit, 0)\ndef triple(x): raise ValueError",
        naive=True,
    ),
    _passing(
        "os._exit in an excepthook",
        "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\ndef triple(x): return 0",
        naive=True,
    ),
    _passing("KeyboardInterrupt", "def triple(x): raise KeyboardInterrupt"),
    _passing("StopIteration", "def triple(x): raise StopIteration"),
    _passing("GeneratorExit", "def triple(x): raise GeneratorExit"),
    _passing(
        "a lie about the exception",
        "class AssertionError(BaseException): pass\ndef triple(x): raise AssertionError",
    ),
    _passing(
        "an exception with a name of two",
        "E = type('SystemExit', (ValueError,), {})\ndef triple(x): raise E(0)",
    ),
    _passing("abort", "import os; os.abort()"),
    _passing("a crash", "import ctypes; ctypes.string_at(0)"),
    # Another Python.
    _passing(
        "builtins replaced",
        "import builtins\nbuiltins.all = lambda *a: True\nbuiltins.abs = lambda x: 0\nbuiltins.range = lambda *a: ()\nclass E(int):\n    __eq__ = lambda s, o: True\n    __sub__ = lambda s, o: 0\n    __hash__ = int.__hash__\ntriple = lambda x: E(0)",
        naive=True,
    ),
    _passing(
        "AssertionError replaced",
        "import builtins\nclass Quiet(BaseException): pass\nbuiltins.AssertionError = Quiet\ndef triple(x): return 0",
    ),
    _passing(
        "the tests' names replaced",
        "import sys\ndef triple(x):\n    frame = sys._getframe()\n    while frame:\n        frame.f_globals['check'] = lambda c: None\n        frame.f_globals['candidate'] = frame.f_globals['triple'] = lambda x: 3 * x\n        frame = frame.f_back\n    return 0",
    ),
    _passing(
        "a trace that skips the tests",
        "import os, sys\ndef skip(frame, event, arg):\n    if frame.f_code.co_name == 'check': os._exit(0)\n    return skip\nsys.settrace(skip)\ndef triple(x): return 0",
        naive=True,
    ),
    _passing(
        "an import hook",
        "import sys, types\nclass Hook:\n    def find_spec(self, *a): return None\nsys.meta_path.insert(0, Hook())\nfor name in ('json', 'os', 'select'): sys.modules[name] = types.ModuleType(name)\ndef triple(x): return 0",
    ),
    _passing(
        "json replaced",
        "import json\njson.dumps = lambda *a, **k: '[1, \"value\", true, null]'\njson.loads = lambda *a, **k: [1, 'call', ['handle', 0]]\ndef triple(x): return 0",
    ),
    _passing(
        "the answering side replaced",
        "import gc\nfor o in gc.get_objects():\n    if type(o).__name__ == '_Side': o._names = {}; o._answer = lambda *a: ['value', True, None]\ndef triple(x): return 0",
    ),
    # Forged answers.
    _passing(
        "answers before the questions",
        _FORGED
        + "forge(*([n, 'value', v, None] for n, v in enumerate((3, 6, 51, -12, 3000), 2)))\ndef triple(x): return 0",
    ),
    _passing(
        "an answer too many",
        _FORGED
        + "def triple(x):\n    forge([2, 'value', 3, None], [3, 'value', 6, None])\n    return 3",
    ),
    _passing(
        "an answer to another question",
        _FORGED + "def triple(x):\n    forge([99, 'value', 3, None])\n    os._exit(0)",
    ),
    _passing(
        "an answer of an unknown kind",
        _FORGED
        + "def triple(x):\n    forge([2, 'eval', '__import__(\"os\")._exit(0)'], [2, 'value', ['eval', 'x'], None])\n    os._exit(0)",
    ),
    _passing(
        "an answer that is an object",
        _FORGED + "def triple(x):\n    forge([2, 'value', ['handle', 0], None])\n    os._exit(0)",
    ),
    _passing(
        "an answer that raises SystemExit",
        _FORGED + "def triple(x):\n    forge([2, 'raised', ['SystemExit'], [0]])\n    os._exit(0)",
    ),
    _passing(
        "a call of the tests' functions",
        _FORGED
        + "def triple(x):\n    forge(['asks', 0, ['tuple', 1]], ['asks', -1, ['tuple']])\n    os._exit(0)",
    ),
    _passing(
        "a message longer than said",
        _FORGED
        + "def triple(x):\n    for fd in range(3, 64):\n        try: os.write(fd, b'\\xff' * 60_000)\n        except OSError: pass\n    os._exit(0)",
    ),
    _passing(
        "a message of deep JSON",
        _FORGED + "def triple(x):\n    forge(b'[' * 50_000)\n    os._exit(0)",
    ),
    _passing("changed arguments", "def triple(x):\n    if isinstance(x, list): x.extend(x + x)"),
    _passing("the channel closed", "import os\nos.closerange(3, 64)\ndef triple(x): return 0"),
    # Using up.
    _passing(
        "an endless loop",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    ),
    _passing("a long sleep", "import time\ndef triple(x): time.sleep(1000)"),
    _passing(
        "a fork bomb",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: break\ndef triple(x): return 0",
    ),
    _passing(
        "a thread bomb",
        "import threading, time\nthreading.stack_size(32768)\ntry:\n    while True: threading.Thread(target=time.sleep, args=[1000]).start()\nexcept BaseException: pass\ndef triple(x): return 0",
    ),
    _passing("a memory bomb", "x = []\nwhile True: x.append(bytearray(1 << 24))"),
    _passing(
        "a disk bomb",
        "import os\ntry:\n    for n in range(10_000):\n        with open(str(n), 'wb') as file: file.write(bytes(1 << 20))\nexcept OSError: pass\ndef triple(x): return 0",
    ),
    _passing(
        "a bomb of empty files",
        "import os\ntry:\n    for n in range(1_000_000): os.close(os.open(str(n), os.O_CREAT))\nexcept OSError: pass\ndef triple(x): return 0",
    ),
    _passing(
        "a flood of output",
        "import os\nfor _ in range(100):\n    for fd in (1, 2): os.write(fd, b'x' * (1 << 20))\ndef triple(x): return 0",
    ),
    # What is outside.
    _looting("the environment", f"return {SECRET!r} in str(os.environ)", naive=True),
    _looting(
        "the environment through /proc",
        f"return any({SECRET!r} in open(p, errors='replace').read() for p in glob.glob('/proc/[0-9]*/environ') + ['/proc/self/environ'] if os.access(p, os.R_OK))",
    ),
    _looting("a file outside", f"return {SECRET!r} in open('<FILE>').read()", naive=True),
    _looting(
        "a file outside, by relative path",
        f"return {SECRET!r} in open(os.path.relpath('<FILE>')).read()",
        naive=True,
    ),
    _looting(
        "a file outside, by a link",
        f"os.symlink('<FILE>', 'link')\nreturn {SECRET!r} in open('link').read()",
    ),
    _looting("/etc/passwd", "return 'root' in open('/etc/passwd').read()", naive=True),
    _looting(
        "homes",
        "return any(os.listdir(p) for p in ('/home', os.path.expanduser('~/.ssh')) if os.path.isdir(p))",
    ),
    _looting(
        "the folder of the project",
        "return any(os.path.exists(os.path.join(p, 'lorapar_core', 'sandbox.py')) for p in (*sys.path, os.getcwd(), os.path.dirname(os.path.dirname(sys._getframe(3).f_code.co_filename or '.'))))",
    ),
    _looting("packages", "import numpy\nreturn True"),
    _looting("our own code", "import lorapar_core\nreturn True", naive=True),
    _looting(
        "the root",
        "return bool(set(os.listdir('/')) - {'dev', 'etc', 'lib', 'lib64', 'usr', 'sandbox', 'tmp', 'root', 'nix', 'home', 'opt', 'lorapar_core'})",
    ),
    _looting("writing outside", "open('<FOLDER>/left', 'w').write('x')\nreturn True", naive=True),
    _looting("changing a file", "open('<FILE>', 'a').write('x')\nreturn True"),
    _looting("changing the library", "open(os.__file__, 'a').close()\nreturn True"),
    _looting("the shared memory folder", "open('/dev/shm/lorapar', 'w').close()\nreturn True"),
    _looting(
        "what another program left",
        "found = os.listdir('.') + os.listdir('/tmp')\nopen('left', 'w').write('x')\nreturn found",
    ),
    _looting(
        "a named pipe",
        "os.write(os.open('<PIPE>', os.O_WRONLY | os.O_NONBLOCK), b'x')\nreturn True",
        naive=True,
    ),
    _looting(
        "a connection",
        "socket.create_connection(('127.0.0.1', <PORT>), 1)\nreturn True",
        naive=True,
    ),
    _looting("a socket", "socket.socket(socket.AF_UNIX)\nreturn True", naive=True),
    _looting("a pair of sockets", "socket.socketpair()\nreturn True", naive=True),
    _looting("the name of a host", "return socket.getaddrinfo('localhost', 80)", naive=True),
    _looting(
        "netlink by a raw call",
        _LIBC + _NUMBERS + "return libc.syscall((41, 198)[machine], 16, 3, 0) >= 0",
        naive=True,
    ),
    _looting("io_uring", _LIBC + "return libc.syscall(425, 1, bytes(120)) >= 0"),
    _looting(
        "x32 calls",
        _LIBC + "return os.uname().machine == 'x86_64' and libc.syscall(0x40000029, 2, 1, 0) >= 0",
    ),
    _looting(
        "a keyring", _LIBC + _NUMBERS + "return libc.syscall((250, 219)[machine], 0, -3, 1) >= 0"
    ),
    _looting(
        "System V shared memory",
        _LIBC + _NUMBERS + "return libc.syscall((29, 194)[machine], 4242, 4096, 0o1666) >= 0",
    ),
    _looting(
        "a message queue",
        _LIBC
        + _NUMBERS
        + "return libc.syscall((240, 180)[machine], b'q', 0o102, 0o600, None) >= 0",
    ),
    _looting(
        "ptrace", _LIBC + _NUMBERS + "return libc.syscall((101, 117)[machine], 0, 0, 0, 0) >= 0"
    ),
    _looting(
        "another process's memory",
        _LIBC
        + _NUMBERS
        + "return any(libc.syscall((310, 270)[machine], pid, bytes(16), 1, bytes(16), 1, 0) >= 0 for pid in range(1, 50))",
    ),
    _looting(
        "signals",
        "done = []\nfor pid in (1, os.getppid(), -1):\n    try: os.kill(pid, 0); done.append(pid)\n    except OSError: pass\nreturn done",
    ),
    _looting("a new session", "os.setsid()\nreturn True"),
    _looting("a daemon", "if os.fork() == 0:\n    time.sleep(1000)\nreturn True"),
    _looting(
        "another program", "return os.posix_spawn(sys.executable, [sys.executable, '-c', ''], {})"
    ),
    _looting("exec", "os.execv(sys.executable, [sys.executable, '-c', ''])"),
    _looting("a new namespace", _LIBC + "return libc.unshare(0x10000000) == 0"),
    _looting(
        "a mount",
        _LIBC
        + "return libc.mount(b'tmpfs', b'/sandbox', b'tmpfs', 0, None) == 0 or libc.umount2(b'/sandbox', 2) == 0",
    ),
    _looting("another user", "os.setuid(0 if os.getuid() else 1)\nos.setgroups([0])\nreturn True"),
    _looting(
        "more of everything",
        "import resource\ndone = []\nfor kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):\n    try: resource.setrlimit(kind, (1 << 40, 1 << 40)); done.append(kind)\n    except (ValueError, OSError): pass\nreturn done",
    ),
    _looting(
        "a core dump", "import resource\nreturn resource.getrlimit(resource.RLIMIT_CORE) != (0, 0)"
    ),
    _looting("a device", "open('/dev/zero', 'rb').close()\nreturn True", naive=True),
    _looting(
        "devices made",
        "os.mknod('null', 0o20666, os.makedev(1, 5))\nopen('null', 'rb').read(1)\nreturn True",
    ),
    _looting("/proc", "return os.listdir('/proc') or os.listdir('/sys')", naive=True),
    _looting(
        "the channel opened anew",
        "return [os.open(f'{p}/{n}', os.O_RDWR) for p in ('/dev/fd', '/proc/self/fd') for n in range(3, 9) if os.path.exists(f'{p}/{n}')]",
    ),
    _looting(
        "the tests in memory",
        "import gc\ntext = ' '.join(repr(o) for o in gc.get_objects() if isinstance(o, (str, bytes, dict, list)) and len(o) < 100_000)\nreturn 'is ' + 'True' in text and 'assert ' + 'candidate' in text",
    ),
    _looting(
        "the proof in frames",
        "frame = sys._getframe()\nwhile frame:\n    if any('pro' + 'of' in str(k) for d in (frame.f_locals, frame.f_globals) for k in list(d)): return True\n    job = frame.f_locals.get('job')\n    if isinstance(job, dict) and ('pro' + 'of' in job or 'tes' + 'ts' in job): return True\n    frame = frame.f_back",
    ),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened in `runs` runs of attacks."""

    runs: int
    false_passes: int
    leaks: int
    survivors: int
    worked: tuple[str, ...]
    """Names of the attacks that did."""


def attack(count: int, *, sandbox: Sandbox, workers: int, limits: Limits) -> Counts:
    """Run `count` attacks, all of them in turn, among baits; and look at what is left."""
    chosen = [ATTACKS[n % len(ATTACKS)] for n in range(count)]
    with baits() as bait:
        jobs = [CodeCheck(bait.placed(a.program), a.tests, "triple") for a in chosen]
        passed = check_all(jobs, sandbox=sandbox, workers=workers, limits=limits)
        worked = [one for one, through in zip(chosen, passed, strict=True) if through]
        leaks = sum(one.tests == LOOT for one in worked) + len(bait.taken())
        names = tuple(sorted({one.name for one in worked} | {*bait.taken()}))
    false_passes = sum(one.tests == TASK for one in worked)
    return Counts(count, false_passes, leaks, len(survivors()), names)


@dataclass(frozen=True, slots=True)
class Bait:
    folder: Path
    port: socket.socket
    pipe: int

    def placed(self, program: str) -> str:
        places = {"<FILE>": f"{self.folder}/secret", "<FOLDER>": str(self.folder)}
        places |= {"<PIPE>": f"{self.folder}/pipe", "<PORT>": str(self.port.getsockname()[1])}
        for mark, place in places.items():
            program = program.replace(mark, place)
        return program

    def taken(self) -> list[str]:
        """The baits that something was done to."""
        done = []
        if sorted(p.name for p in self.folder.iterdir()) != ["pipe", "secret"]:
            done.append("a file was left")
        if (self.folder / "secret").read_text() != SECRET:
            done.append("a file was changed")
        if os.read(self.pipe, 1):
            done.append("a pipe was written to")
        try:
            self.port.accept()[0].close()
            done.append("a connection came")
        except BlockingIOError:
            pass
        return done


@contextmanager
def baits() -> Iterator[Bait]:
    with tempfile.TemporaryDirectory(prefix="bait-") as name, socket.socket() as port:
        folder = Path(name)
        (folder / "secret").write_text(SECRET)
        os.mkfifo(folder / "pipe")
        pipe = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        port.bind(("127.0.0.1", 0))
        port.listen()
        port.setblocking(False)
        os.environ[VARIABLE] = SECRET
        try:
            yield Bait(folder, port, pipe)
        finally:
            del os.environ[VARIABLE]
            os.close(pipe)


def survivors(patience_s: float = 20.0) -> Sequence[str]:
    """Processes in other process namespaces than ours, or by the sandbox's command, that are there
    now and still there after that long. Other sandboxes that run here end within it."""
    found, deadline = sandboxes(), time.monotonic() + patience_s
    while found and time.monotonic() < deadline:
        time.sleep(0.05)
        found &= sandboxes()
    return sorted(found)


def sandboxes() -> set[str]:
    """Process ids of sandboxes, anybody's."""
    ours, found = os.readlink("/proc/self/ns/pid"), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            elsewhere = bool(command) and os.readlink(process / "ns/pid") != ours
            if elsewhere or b"sandboxed/__main__.py" in command:
                found.add(process.name)
        except OSError:  # gone since, or not ours to look at
            continue
    return found
