"""One holder at a time, between threads as well; a killed holder is covered by integration."""

import threading
import time
from pathlib import Path

import pytest

from artifacts import Store
from artifacts.lock import locked


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    try:
        with locked(tmp_path / "lock"):
            raise KeyError
    except KeyError:
        pass
    with locked(tmp_path / "lock"):
        pass


def test_a_deleted_lock_file_does_not_let_two_in(tmp_path: Path) -> None:
    """The waiter would otherwise hold a lock on a file that nobody else can find."""
    path, entered = tmp_path / "lock", threading.Event()

    def wait() -> None:
        with locked(path):
            entered.set()

    with locked(path):
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.05)
        path.unlink()
        with locked(path):
            pass
    waiter.join()
    assert entered.is_set()
    assert path.exists()


def test_a_waiter_is_called_while_it_waits_and_may_give_up(tmp_path: Path) -> None:
    calls = []

    def once() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with locked(tmp_path / "lock", waiting=once):  # free: nobody waits
        assert calls == []
        with pytest.raises(TimeoutError), locked(tmp_path / "lock", waiting=once):
            pass
    assert len(calls) == 3
    with locked(tmp_path / "lock", waiting=once):  # who gave up holds nothing
        pass


def test_a_waiter_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    waited, entered = threading.Event(), threading.Event()

    def wait() -> None:
        with locked(tmp_path / "lock", waiting=waited.set):
            entered.set()

    with locked(tmp_path / "lock"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert waited.wait(10)
        assert not entered.is_set()
    waiter.join(10)
    assert entered.is_set()


def test_keys_do_not_block_each_other(store: Store) -> None:
    with store.lock("a" * 64), store.lock("b" * 64):
        pass
