"""Messages of nodes between other programs' words: whole again, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.node_lines import Messages, lines

NODES = st.sampled_from([0, 1, 12, None])
TEXTS = st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(0, 200))


@given(
    st.lists(st.tuples(NODES, TEXTS), max_size=4),
    st.randoms(use_true_random=False),
)
def test_messages_of_several_nodes_come_through_however_their_lines_mix(
    said: list[tuple[int | None, str]], order: Any
) -> None:
    """srun cuts lines of 1024 bytes and more."""
    waiting: dict[int | None, list[str]] = {}
    for node, text in said:
        waiting.setdefault(node, []).extend(lines(node, {"event": text}))
    messages, found = Messages(), []
    while waiting:
        node = order.choice(list(waiting))
        line = waiting[node].pop(0)
        if not waiting[node]:
            del waiting[node]
        assert len(line.encode()) < 1024
        assert line.index("\n") == len(line) - 1
        assert messages.ours(line)
        found.append(messages.take(line))
    whole = [(message[0], message[1]["event"]) for message in found if message]
    for node in {node for node, _ in said}:
        sent = [text for other, text in said if other == node]
        assert [text for other, text in whole if other == node] == sent


@pytest.mark.parametrize(
    "line",
    [
        '@lorapar-node@ 0 . {"event": "al',
        '@lorapar-node@ 0 . {"event": "al@lorapar-node@ 1 . {"event": "alive"}\n',
        '0: @lorapar-node@ 0 . {"event": "alive"}\n',
        "@lorapar-node@ 0 . [1]\n",
        "@lorapar-node@ 0 . {}\n",
    ],
)
def test_a_torn_line_is_refused(line: str) -> None:
    messages = Messages()
    assert messages.ours(line)
    with pytest.raises(ValueError, match=r"no line|no message|Unterminated|delimiter"):
        messages.take(line)


def test_other_words_are_not_ours() -> None:
    assert not Messages().ours("srun: job 7 has been allocated resources\n")
