"""Many processes, some of them killed: a record is there and whole, or it is not there.

The children are programs of their own, started by `spawn`, so that nothing is inherited and a
kill -9 is a real one.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifacts import Record, Store, action_key

REPOSITORY = Path(__file__).parents[2]
TREE = {"metrics.json": b'{"loss": 0.5}', "adapter/config": b"{}", "adapter/model": b"w" * 300_000}

# Every child begins with this. A child waits for the file "go", so that all start at one moment.
COMMON = """
import logging, os, signal, sys, time
from pathlib import Path
from artifacts import CorruptObject, MissingObject, Ref, Store, action_key
logging.basicConfig(format="%(levelname)s %(message)s")
root = Path(sys.argv[1])
store = Store.open(root)

def wait():
    print("ready", flush=True)
    while not (root / "go").exists():
        time.sleep(0.0005)

def write(folder, tree):
    for name, data in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder

def key_of(n):
    return action_key(stage="s", version=1, config={"n": n}, inputs={})

def publish(source, n):
    return store.publish(source, key=key_of(n), stage="s", name="s", version=1,
                         config={"n": n}, inputs={}, provenance={"pid": os.getpid()})

def tree_of(n):
    return {"metrics.json": b'{"n": %d}' % n, "adapter/config": b"{}",
            "adapter/model": b"%03d" % n * 100_000}

def assert_whole(record, n):
    for name, data in tree_of(n).items():
        role, _, member = name.partition("/")
        assert (store.path(record.outputs[role]) / member).read_bytes() == data
"""


def spawn(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def go(root: Path, children: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """Let the waiting children run to their end; return stdout and stderr of each."""
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n", child.communicate()
        (root / "go").touch()
        outputs = [child.communicate(timeout=60) for child in children]
    finally:  # those that wait would do so for ever
        for child in children:
            child.kill()
            child.communicate()
    for child, output in zip(children, outputs, strict=True):
        assert child.returncode == 0, output
    return outputs


def key_of(n: int) -> str:
    return action_key(stage="s", version=1, config={"n": n}, inputs={})


def write(folder: Path, tree: dict[str, bytes]) -> Path:
    for name, data in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def publish(store: Store, source: Path, n: int = 0) -> Record:
    return store.publish(
        source,
        key=key_of(n),
        stage="s",
        name="s",
        version=1,
        config={"n": n},
        inputs={},
        provenance={},
    )


def contents(store: Store, record: Record) -> dict[str, bytes]:
    """Read back all that a record names, as the tree it was published from."""
    found = {}
    for role, ref in record.outputs.items():
        path = store.path(ref)
        if ref.kind == "file":
            found[role] = path.read_bytes()
        else:
            found |= {f"{role}/{member.name}": member.read_bytes() for member in path.iterdir()}
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


COMPUTE = """
wait()
for n in range(8):
    with store.lock(key_of(n)):
        record = store.lookup(key_of(n))
        if record is None:
            print("computed", n)
            folder = store.scratch(key_of(n)) / f"out-{os.getpid()}"
            record = publish(write(folder, tree_of(n)), n)
    assert_whole(record, n)
"""

READ = """
wait()
whole, end = set(), time.monotonic() + 30
while len(whole) < 8:
    assert time.monotonic() < end
    for n in range(8):
        record = store.lookup(key_of(n))
        if record is not None:
            assert_whole(record, n)
            whole.add(n)
"""


def test_an_action_is_computed_once_and_never_read_torn(store: Store) -> None:
    children = [spawn(COMPUTE, store.root) for _ in range(4)]
    readers = [spawn(READ, store.root) for _ in range(2)]
    outputs = go(store.root, children + readers)
    computed = sorted(line for stdout, _ in outputs for line in stdout.splitlines())
    assert computed == [f"computed {n}" for n in range(8)]
    assert [stderr for _, stderr in outputs if stderr] == []
    assert store.verify().ok


WITHOUT_LOCK = """
wait()
for n in range(8):
    assert_whole(publish(write(root.parent / f"{os.getpid()}-{n}", tree_of(n)), n), n)
"""


def test_without_the_lock_work_is_done_twice_but_nothing_breaks(store: Store) -> None:
    outputs = go(store.root, [spawn(WITHOUT_LOCK, store.root) for _ in range(3)])
    assert [stderr for _, stderr in outputs if stderr] == []
    report = store.verify()
    assert report.ok
    assert report.checked == 2 * 8 + 8 + 1  # metrics and model, manifests, the shared config
    assert list((store.root / "tmp").iterdir()) == []


# Kills itself before the n-th step that changes names or puts bytes on the disk.
DIE_AT = """
source, fatal, step = Path(sys.argv[2]), int(sys.argv[3]), 0

def counted(genuine):
    def call(*args, **kwargs):
        global step
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1
        return genuine(*args, **kwargs)
    return call

for name in ("fsync", "chmod", "mkdir", "link", "replace", "rename", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
publish(source, 0)
print(step)
"""


@pytest.mark.parametrize("where", ["scratch", "outside"])
def test_killed_before_any_step_a_publisher_leaves_all_or_nothing(
    tmp_path: Path, where: str
) -> None:
    def prepare(name: object) -> tuple[Store, Path]:
        store = Store.open(tmp_path / f"store-{name}")
        folder = store.scratch(key_of(0)) if where == "scratch" else tmp_path / f"source-{name}"
        return store, write(folder / "out", TREE)

    store, source = prepare("whole")
    steps = int(spawn(DIE_AT, store.root, source, -1).communicate()[0])
    assert steps > 20
    left_whole = []
    for step in range(steps):
        store, source = prepare(step)
        child = spawn(DIE_AT, store.root, source, step)
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL
        record = store.lookup(key_of(0))
        left_whole.append(record is not None)
        if record is not None:
            assert contents(store, record) == TREE
        assert Store.open(store.root).verify().ok
        assert contents(store, publish(store, source)) == TREE
        assert store.verify().ok
    # Nothing is complete until the rename of the record, and only its last steps come after it.
    assert left_whole == sorted(left_whole)
    assert 1 <= sum(left_whole) <= 3


DIE_ANY_TIME = """
wait()
n = int(sys.argv[2])
while True:
    publish(write(store.scratch(key_of(n)) / "out", tree_of(n)), n)
    n += 1
"""


def test_killed_at_random_moments_publishers_leave_only_whole_records(store: Store) -> None:
    chance = random.Random(7)
    (store.root / "go").touch()
    for round_ in range(12):
        child = spawn(DIE_ANY_TIME, store.root, 1000 * round_)
        assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.001, 0.1))
        child.kill()
        child.communicate(timeout=60)
    assert len(list(store.records())) == len(list((store.root / "actions").iterdir())) > 0
    report = store.verify()
    assert (report.bad, report.missing) == ((), ())
    for record in store.records():
        assert store.lookup(record.key) == record
        assert contents(store, record)["adapter/model"] == b"%03d" % record.config["n"] * 100_000
    go(store.root, [spawn(COMPUTE, store.root)])
    assert all(store.lookup(key_of(n)) for n in range(8))


HOLD = """
with store.lock(key_of(0)):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_kernel_frees_the_lock_of_a_killed_holder(store: Store) -> None:
    child = spawn(HOLD, store.root)
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.communicate(timeout=60)
    with store.lock(key_of(0)):
        pass


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def swap(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.write_bytes(b"x" * path.with_name("moved").stat().st_size)


DAMAGE = {
    "flip": lambda path: overwrite(path, b"W" + path.read_bytes()[1:]),
    "truncate": lambda path: overwrite(path, path.read_bytes()[:1000]),
    "empty": lambda path: overwrite(path, b""),
    "swap": swap,
}

READ_CORRUPT = """
ref = Ref(sys.argv[2], int(sys.argv[3]), "dir")
wait()
try:
    print("read", (store.path(ref) / "model").read_bytes()[:9])
except CorruptObject:
    print("corrupt")
except MissingObject:
    print("missing")
"""


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_object_is_quarantined_once_and_never_read(
    store: Store, tmp_path: Path, damage: str
) -> None:
    source = write(tmp_path / "source", TREE)
    record = publish(store, source)
    ref = record.outputs["adapter"]
    view = store.path(ref)
    (path,) = (path for path in (store.root / "cas").glob("*/*") if path.samefile(view / "model"))
    DAMAGE[damage](path)

    outputs = go(
        store.root, [spawn(READ_CORRUPT, store.root, ref.digest, ref.size) for _ in range(3)]
    )
    assert {stdout.strip() for stdout, _ in outputs} <= {"corrupt", "missing"}
    assert sum(stdout == "corrupt\n" for stdout, _ in outputs) >= 1
    assert sum(stderr.count("WARNING") for _, stderr in outputs) == 1
    assert len(list((store.root / "quarantine").iterdir())) == 1

    assert store.lookup(record.key) is None
    again = publish(store, source)
    assert again.outputs == record.outputs
    assert contents(Store.open(store.root), again) == TREE


VIEW = """
ref = Ref(sys.argv[2], int(sys.argv[3]), "dir")
wait()
view = store.path(ref)
assert sorted(path.name for path in view.iterdir()) == ["config", "model"]
assert (view / "model").read_bytes() == b"w" * 300_000
print(view)
"""


@pytest.mark.parametrize("state", ["absent", "broken"])
def test_processes_that_build_a_view_at_once_get_the_same_one(
    store: Store, tmp_path: Path, state: str
) -> None:
    ref = publish(store, write(tmp_path / "source", TREE)).outputs["adapter"]
    if state == "broken":
        (store.path(ref) / "config").unlink()
    outputs = go(store.root, [spawn(VIEW, store.root, ref.digest, ref.size) for _ in range(4)])
    assert {stdout for stdout, _ in outputs} == {f"{store.root / 'views' / ref.digest}\n"}
    assert [stderr for _, stderr in outputs if stderr] == []
    assert list((store.root / "tmp").iterdir()) == []
