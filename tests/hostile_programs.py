"""Programs that want to be passed without solving the task, or to get at what is outside.

The task is TASK: `triple(x)` is three times x. Each attack has tests that pass exactly if it
worked: those of the task, which no attack solves; or LOOT, which asks whether there was any. What
attacks do outside is seen by the baits: a file, a variable of the environment, a port, a named
pipe. <SECRET>, <FILE>, <FOLDER>, <PORT> and <PIPE> in a program are theirs.
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
from textwrap import indent

from lorapar_core.config import Sandbox
from lorapar_core.sandbox import CodeCheck, check_all
from lorapar_core.sides import Limits

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


# What stands in brackets after an attack's name: the parts of _PARTS that go before its text;
# whether it is `naive`; and `loot` if the text is the body of a function that returns something
# true if it got anything.
_CORPUS = r"""
### equals everything [evil naive]
def triple(x): return Evil()

### a class in the function's place [evil naive]
class triple(Evil):
    def __init__(self, x): pass

### an object in the function's place [evil naive]
class T(Evil):
    def __call__(self, x): return Evil()
triple = T()

### a list that equals everything [naive]
class L(list):
    def __eq__(self, other): return True
    def __sub__(self, o): return 0
def triple(x): return L()

### an int that equals everything [naive]
class N(int):
    def __eq__(self, other): return True
    def __sub__(self, o): return 0
    __hash__ = int.__hash__
def triple(x): return N(0)

### a float that equals everything [naive]
class N(float):
    def __eq__(self, other): return True
    def __sub__(self, o): return 0
    __hash__ = float.__hash__
def triple(x): return N('nan')

### a str that equals everything [naive]
class S(str):
    def __eq__(self, other): return True
    def __sub__(self, o): return 0
    __hash__ = str.__hash__
def triple(x): return S('x')

### not a number
def triple(x): return float('nan')

### infinity
def triple(x): return float('inf')

### a number of 100,000 digits
def triple(x): return 10 ** 100_000

### nested 100,000 deep
def triple(x):
    r = []
    for _ in range(100_000): r = [r]
    return r

### a result that holds itself
def triple(x):
    r = []
    r.append(r)
    return r

### a result of 100 MB
def triple(x): return 'x' * (100 << 20)

### an iterator without an end
import itertools
def triple(x): return itertools.count()

### hashes that collide
def triple(x): return {n * (2 ** 61 - 1) for n in range(20_000)}

### sys.exit(0) [naive]
import sys; sys.exit(0)

### exit from the function [naive]
def triple(x): raise SystemExit(0)

### os._exit(0) [naive]
import os; os._exit(0)

### os._exit from the function [naive]
import os
def triple(x): os._exit(0)

### os._exit at exit [naive]
import atexit, os
atexit.register(os._exit, 0)
def triple(x): raise ValueError

### os._exit in an excepthook [naive]
import os, sys
sys.excepthook = lambda *a: os._exit(0)
def triple(x): return 0

### KeyboardInterrupt
def triple(x): raise KeyboardInterrupt

### StopIteration
def triple(x): raise StopIteration

### GeneratorExit
def triple(x): raise GeneratorExit

### a lie about the exception
class AssertionError(BaseException): pass
def triple(x): raise AssertionError

### an exception with a name of two
E = type('SystemExit', (ValueError,), {})
def triple(x): raise E(0)

### abort
import os; os.abort()

### a crash
import ctypes; ctypes.string_at(0)

### builtins replaced [naive]
import builtins
builtins.all = lambda *a: True
builtins.abs = lambda x: 0
builtins.range = lambda *a: ()
class E(int):
    __eq__ = lambda s, o: True
    __sub__ = lambda s, o: 0
    __hash__ = int.__hash__
triple = lambda x: E(0)

### AssertionError replaced
import builtins
class Quiet(BaseException): pass
builtins.AssertionError = Quiet
def triple(x): return 0

### the tests' names replaced
import sys
def triple(x):
    frame = sys._getframe()
    while frame:
        frame.f_globals['check'] = lambda c: None
        frame.f_globals['candidate'] = frame.f_globals['triple'] = lambda x: 3 * x
        frame = frame.f_back
    return 0

### a trace that skips the tests [naive]
import os, sys
def skip(frame, event, arg):
    if frame.f_code.co_name == 'check': os._exit(0)
    return skip
sys.settrace(skip)
def triple(x): return 0

### an import hook
import sys, types
class Hook:
    def find_spec(self, *a): return None
sys.meta_path.insert(0, Hook())
for name in ('json', 'os', 'select'): sys.modules[name] = types.ModuleType(name)
def triple(x): return 0

### json replaced
import json
json.dumps = lambda *a, **k: '[1, "value", true, null]'
json.loads = lambda *a, **k: [1, 'call', ['handle', 0]]
def triple(x): return 0

### the answering side replaced
import gc
for o in gc.get_objects():
    if type(o).__name__ == '_Side': o._names = {}; o._answer = lambda *a: ['value', True, None]
def triple(x): return 0

### answers before the questions [forging]
forge(*([n, 'value', v, None] for n, v in enumerate((3, 6, 51, -12, 3000), 2)))
def triple(x): return 0

### an answer too many [forging]
def triple(x):
    forge([2, 'value', 3, None], [3, 'value', 6, None])
    return 3

### an answer to another question [forging]
def triple(x):
    forge([99, 'value', 3, None])
    os._exit(0)

### an answer of an unknown kind [forging]
def triple(x):
    forge([2, 'eval', '__import__("os")._exit(0)'], [2, 'value', ['eval', 'x'], None])
    os._exit(0)

### an answer that is an object [forging]
def triple(x):
    forge([2, 'value', ['handle', 0], None])
    os._exit(0)

### an answer that raises SystemExit [forging]
def triple(x):
    forge([2, 'raised', ['SystemExit'], [0]])
    os._exit(0)

### a call of the tests' functions [forging]
def triple(x):
    forge(['asks', 0, ['tuple', 1]], ['asks', -1, ['tuple']])
    os._exit(0)

### a message longer than said [forging]
def triple(x):
    for fd in range(3, 64):
        try: os.write(fd, b'\xff' * 60_000)
        except OSError: pass
    os._exit(0)

### a message of deep JSON [forging]
def triple(x):
    forge(b'[' * 50_000)
    os._exit(0)

### changed arguments
def triple(x):
    if isinstance(x, list): x.extend(x + x)

### the channel closed
import os
os.closerange(3, 64)
def triple(x): return 0

### an endless loop
import signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass

### a long sleep
import time
def triple(x): time.sleep(1000)

### a fork bomb
import os
while True:
    try: os.fork()
    except OSError: break
def triple(x): return 0

### a thread bomb
import threading, time
threading.stack_size(32768)
try:
    while True: threading.Thread(target=time.sleep, args=[1000]).start()
except BaseException: pass
def triple(x): return 0

### a memory bomb
x = []
while True: x.append(bytearray(1 << 24))

### a disk bomb
import os
try:
    for n in range(10_000):
        with open(str(n), 'wb') as file: file.write(bytes(1 << 20))
except OSError: pass
def triple(x): return 0

### a bomb of empty files
import os
try:
    for n in range(1_000_000): os.close(os.open(str(n), os.O_CREAT))
except OSError: pass
def triple(x): return 0

### a flood of output
import os
for _ in range(100):
    for fd in (1, 2): os.write(fd, b'x' * (1 << 20))
def triple(x): return 0

### the environment [loot naive]
return '<SECRET>' in str(os.environ)

### the environment through /proc [loot]
places = [*glob.glob('/proc/[0-9]*/environ'), '/proc/self/environ']
return any('<SECRET>' in open(p, errors='replace').read() for p in places if os.access(p, 4))

### a file outside [loot naive]
return '<SECRET>' in open('<FILE>').read()

### a file outside, by relative path [loot naive]
return '<SECRET>' in open(os.path.relpath('<FILE>')).read()

### a file outside, by a link [loot]
os.symlink('<FILE>', 'link')
return '<SECRET>' in open('link').read()

### /etc/passwd [loot naive]
return 'root' in open('/etc/passwd').read()

### homes [loot]
return any(os.listdir(p) for p in ('/home', os.path.expanduser('~/.ssh')) if os.path.isdir(p))

### the folder of the project [loot]
places = [*sys.path, os.getcwd(), *(os.path.dirname(m.__file__) for m in sys.modules.values()
    if getattr(m, '__file__', None))]
return any(os.path.exists(p + end) for p in places for end in ('/sandbox.py', '/../sandbox.py'))

### packages [loot]
import numpy
return True

### our own code [loot naive]
import lorapar_core
return True

### the root [loot]
return os.listdir('/etc') != ['ld.so.cache'] or os.listdir('/dev') != ['null']

### writing outside [loot naive]
open('<FOLDER>/left', 'w').write('x')
return True

### changing a file [loot]
open('<FILE>', 'a').write('x')
return True

### changing the library [loot]
open(os.__file__, 'a').close()
return True

### the shared memory folder [loot]
open('/dev/shm/lorapar', 'w').close()
return True

### what another program left [loot]
found = [p for p in ('left', '/tmp/left', '/dev/shm/left') if os.path.exists(p)]
open('left', 'w').write('x')
return found

### a named pipe [loot naive]
os.write(os.open('<PIPE>', os.O_WRONLY | os.O_NONBLOCK), b'x')
return True

### a connection [loot naive]
socket.create_connection(('127.0.0.1', <PORT>), 1)
return True

### a socket [loot naive]
socket.socket(socket.AF_UNIX)
return True

### a pair of sockets [loot naive]
socket.socketpair()
return True

### the name of a host [loot naive]
return socket.getaddrinfo('localhost', 80)

### netlink by a raw call [loot libc numbers naive]
return libc.syscall((41, 198)[machine], 16, 3, 0) >= 0

### io_uring [loot libc]
return libc.syscall(425, 1, bytes(120)) >= 0

### x32 calls [loot libc]
return os.uname().machine == 'x86_64' and libc.syscall(0x40000029, 2, 1, 0) >= 0

### a keyring [loot libc numbers]
return libc.syscall((250, 219)[machine], 0, -3, 1) >= 0

### System V shared memory [loot libc numbers]
return libc.syscall((29, 194)[machine], 4242, 4096, 0o1666) >= 0

### a message queue [loot libc numbers]
return libc.syscall((240, 180)[machine], b'q', 0o102, 0o600, None) >= 0

### ptrace [loot libc numbers]
return libc.syscall((101, 117)[machine], 0, 0, 0, 0) >= 0

### another process's memory [loot libc numbers]
read = (310, 270)[machine]
return any(libc.syscall(read, pid, bytes(16), 1, bytes(16), 1, 0) >= 0 for pid in range(1, 50))

### signals [loot]
done = []
for pid in (1, os.getppid(), -1):
    try: os.kill(pid, 0); done.append(pid)
    except OSError: pass
return done

### a new session [loot]
os.setsid()
return True

### a daemon [loot]
if os.fork() == 0:
    time.sleep(1000)
return True

### another program [loot]
return os.posix_spawn(sys.executable, [sys.executable, '-c', ''], {})

### exec [loot]
os.execv(sys.executable, [sys.executable, '-c', ''])

### a new namespace [loot libc]
return libc.unshare(0x10000000) == 0

### a mount [loot libc]
mounted = libc.mount(b'tmpfs', b'/sandbox', b'tmpfs', 0, None)
return mounted == 0 or libc.umount2(b'/sandbox', 2) == 0

### another user [loot]
os.setuid(0 if os.getuid() else 1)
os.setgroups([0])
return True

### more of everything [loot]
import resource
done = []
for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
    try: resource.setrlimit(kind, (1 << 40, 1 << 40)); done.append(kind)
    except (ValueError, OSError): pass
return done

### a core dump [loot]
import resource
return resource.getrlimit(resource.RLIMIT_CORE) != (0, 0)

### a device [loot naive]
open('/dev/zero', 'rb').close()
return True

### devices made [loot]
os.mknod('null', 0o20666, os.makedev(1, 5))
open('null', 'rb').read(1)
return True

### /proc [loot naive]
return os.listdir('/proc') or os.listdir('/sys')

### the channel opened anew [loot]
places = [f'{p}/{n}' for p in ('/dev/fd', '/proc/self/fd') for n in range(3, 9)]
return [os.open(p, os.O_RDWR) for p in places if os.path.exists(p)]

### the tests in memory [loot]
import gc
things = [o for o in gc.get_objects() if isinstance(o, (str, bytes, dict, list))]
text = ' '.join(repr(o) for o in things if len(o) < 100_000)
return 'is ' + 'True' in text and 'assert ' + 'candidate' in text

### the proof in frames [loot]
frame = sys._getframe()
while frame:
    if any('pro' + 'of' in str(k) for k in (*frame.f_locals, *frame.f_globals)): return True
    job = frame.f_locals.get('job')
    if isinstance(job, dict) and ('pro' + 'of' in job or 'tes' + 'ts' in job): return True
    frame = frame.f_back
"""

_PARTS = {
    "evil": """\
class Evil:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __hash__(self): return 0
    def __bool__(self): return True
    def __float__(self): return 1.5
""",
    "forging": """\
import json, os
def forge(*messages):
    for message in messages:
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        for fd in range(3, 64):
            try: os.write(fd, len(text).to_bytes(4, 'big') + text)
            except OSError: pass
""",
    "libc": "libc = ctypes.CDLL(None, use_errno=True)\n",
    "numbers": "machine = {'x86_64': 0, 'aarch64': 1}[os.uname().machine]\n",
}
_LOOTING = """\
import ctypes, glob, os, signal, socket, sys, threading, time
def attempt():
{body}
def triple(x):
    try: return bool(attempt())
    except BaseException: return False
"""


def _attacks() -> Iterator[Attack]:
    for block in _CORPUS.split("\n### ")[1:]:
        title, _, text = block.partition("\n")
        name, _, marks = title.removesuffix("]").partition(" [")
        chosen = marks.split()
        text = "".join(_PARTS[mark] for mark in chosen if mark in _PARTS) + text
        program = _LOOTING.format(body=indent(text, "    ")) if "loot" in chosen else text
        yield Attack(name, program, LOOT if "loot" in chosen else TASK, "naive" in chosen)


ATTACKS = tuple(_attacks())
FORGING = _PARTS["forging"]


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
        places |= {
            "<SECRET>": SECRET,
            "<PIPE>": f"{self.folder}/pipe",
            "<PORT>": str(self.port.getsockname()[1]),
        }
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
    ours, found = Path("/proc/self/ns/pid").readlink(), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            elsewhere = bool(command) and (process / "ns/pid").readlink() != ours
            if elsewhere or b"sandboxed/__main__.py" in command:
                found.add(process.name)
        except OSError:  # gone since, or not ours to look at
            continue
    return found
