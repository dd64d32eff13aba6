"""What a recipe's votes would cost: how many are still to be bought, of how many tokens, for what.

Votes that a ledger holds are free, whichever run paid for them. Of curtailed voting the first votes
on each example are known and the rest depends on them, so there is a least and a most. Tokens are
estimated from the messages' lengths, completions from what the teacher has used so far. Requests
that fail and are made again are not in it: `runtime.budget_usd` is the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from artifacts import Ref, Store
from flows.budget import spent
from flows.summary import table
from flows.voting import rule_of
from lorapar_core.config import Recipe, RuntimeConfig, TeacherConfig
from lorapar_core.parquet import read_table
from lorapar_core.rounds import AUDITED, Votes, is_audited, order
from lorapar_core.rule import needed
from lorapar_core.teachers.ballot import CONTENT_FREE_ID, Question
from lorapar_core.teachers.calibration import COLUMNS, labels_of
from lorapar_core.teachers.ledger import Entries, read_entries
from lorapar_core.teachers.prices import Price, likely_tokens, price_of
from lorapar_core.teachers.replies import LIKELY_TOKENS
from lorapar_core.teachers.teacher import Render
from lorapar_core.vote import rendering
from tasks.action import Action, Outcome
from tasks.vote import asked

TYPICAL = Question("", "x" * 235, "x" * 288)
"""Of GSM8K's length (means of its training set); for examples that nobody has read yet."""
SHORT_REPLY = 256
REASONING_SHARE = 4
"""A teacher that may say more than `SHORT_REPLY` tokens is taken to say a quarter of what it may:
our guess, until the ledger knows better."""
ENOUGH = 20


@dataclass(frozen=True, slots=True)
class Purchase:
    """One teacher's votes that are still to be bought. Dollars are None where no price is known."""

    teacher: str
    least: int
    most: int
    prompt_tokens: float
    """Of `most` votes, as completion tokens and dollars are."""
    completion_tokens: float
    price: Price | None
    begun: int
    """Examples among them that other teachers, or it, were asked about before: with a larger panel
    a label that was certain may be open again."""
    usd: float | None
    longest_usd: float | None
    """If every reply is as long as it may be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The votes that one teacher's ledger lacks. Examples, or how many, while nobody knows them."""

    teacher: TeacherConfig
    role_play: bool
    target: str
    entries: Entries
    begun: Set[str]
    """Examples that any teacher of the recipe was asked about before."""
    surely: Sequence[str] | int
    most: Sequence[str] | int

    def united(self, other: Wanted) -> Wanted:
        """With what another recipe wants of the same ledger."""
        return replace(
            self,
            begun=self.begun | other.begun,
            surely=united(self.surely, other.surely),
            most=united(self.most, other.most),
        )

    @property
    def render(self) -> Render:
        return rendering(self.teacher, target=self.target, role_play=self.role_play)


def united(one: Sequence[str] | int, other: Sequence[str] | int) -> Sequence[str] | int:
    if isinstance(one, int) or isinstance(other, int):
        return max(count_of(one), count_of(other))
    return list(dict.fromkeys([*one, *other]))


def count_of(votes: Sequence[str] | int) -> int:
    return votes if isinstance(votes, int) else len(votes)


def wanted(
    recipe: Recipe,
    actions: Sequence[tuple[Action, Outcome]],
    *,
    store: Store,
    ids: Sequence[str] | None,
) -> dict[str, Wanted]:
    """Ledger -> what the planned `actions` would buy of its teacher. `ids`: the examples; None
    while they aren't known."""
    votes = [(a, o) for a, o in actions if a.stage == "vote"]
    if not votes:  # a baseline that trains on all examples
        return {}
    target = votes[0][0].config["target"]
    ledgers = ledgers_of(recipe, votes)
    entries = {name: read_entries(store.ledger(digest)) for name, digest in ledgers.items()}
    needs = _needs(recipe, votes, entries, ids, store)
    role_play = recipe.voting.role_play
    begun = frozenset().union(*(one.votes for one in entries.values()))
    return {
        ledgers[t.name]: Wanted(t, role_play, target, entries[t.name], begun, *needs[t.name])
        for t in recipe.asked
        if t.provider == "litellm" and t.name in needs
    }


_Need = tuple[Sequence[str] | int, Sequence[str] | int]
"""`Wanted.surely` and `Wanted.most`."""


def ledgers_of(recipe: Recipe, actions: Sequence[tuple[Action, Outcome]]) -> dict[str, str]:
    """Teacher -> its ledger's name, also where no round has asked it anything yet."""
    votes = [(a, o) for a, o in actions if a.stage == "vote"]
    if not votes:
        return {}
    target = votes[0][0].config["target"]
    remote = {
        teacher.name: asked(recipe, teacher, model=None, target=target)["asked"]
        for teacher in recipe.asked
        if teacher.provider == "litellm"
    }
    others = {a.config["teacher"]["name"]: a.ledger for a, _ in votes if a.ledger}
    return {**remote, **others}


def _needs(
    recipe: Recipe,
    votes: Sequence[tuple[Action, Outcome]],
    entries: Mapping[str, Entries],
    ids: Sequence[str] | None,
    store: Store,
) -> dict[str, _Need]:
    needs: dict[str, _Need] = {}
    panel: set[str] = set()
    if recipe.voting.curtailed and ids is not None:
        panel = {teacher.name for teacher in recipe.panel}
        needs = _curtailed(recipe, _held(recipe, votes, entries, store), ids)
    for action, outcome in votes:
        name = action.config["teacher"]["name"]
        if outcome.action != "missing" or name not in entries or name in panel:
            continue
        if ids is None:
            needs[name] = _least(recipe, action.units), action.units
            continue
        about = action.site["ids"] or ids
        missing = [i for i in about if i not in entries[name].votes]
        needs[name] = missing, missing
    return needs


def _least(recipe: Recipe, count: int) -> int:
    """Of so many votes of one teacher, those of a first round, where all teachers take turns but on
    the random tenth that all are asked about."""
    if not recipe.voting.curtailed:
        return count
    size, audited = len(recipe.panel), count // AUDITED
    return audited + (count - audited) * needed([], size, rule_of(recipe)) // size


def _curtailed(recipe: Recipe, held: Mapping[str, Votes], ids: Sequence[str]) -> dict[str, _Need]:
    """Follow each example's order as far as votes are held."""
    least: dict[str, list[str]] = {name: [] for name in held}
    most: dict[str, list[str]] = {name: [] for name in held}
    for example_id in ids:
        surely, perhaps = _open_votes(recipe, example_id, held)
        for name in surely:
            least[name].append(example_id)
        for name in (*surely, *perhaps):
            most[name].append(example_id)
    return {name: (least[name], most[name]) for name in held if most[name]}


def _open_votes(
    recipe: Recipe, example_id: str, held: Mapping[str, Votes]
) -> tuple[list[str], list[str]]:
    """Teachers who will surely be asked about an example, and who perhaps."""
    turns = order(example_id, held)
    rule = rule_of(recipe)
    if is_audited(example_id):
        return [name for name in turns if example_id not in held[name]], []
    known: list[int | None] = []
    while turns:
        more = needed(known, len(turns), rule)
        now, later = turns[:more], turns[more:]
        surely = [name for name in now if example_id not in held[name]]
        if surely or not now:
            perhaps = [name for name in later if now and example_id not in held[name]]
            return surely, perhaps
        known += [held[name][example_id] for name in now]
        turns = later
    return [], []


def _held(
    recipe: Recipe,
    votes: Sequence[tuple[Action, Outcome]],
    entries: Mapping[str, Entries],
    store: Store,
) -> dict[str, Votes]:
    """Teacher of the panel -> the votes in its ledger and in its rounds that are cached. Those tell
    of votes that came too late, too, which no ledger keeps and nobody asks for again."""
    tables: dict[str, list[Mapping[str, Sequence[Any]]]] = {t.name: [] for t in recipe.panel}
    for name, known in entries.items():
        if name in tables:
            ballots = list(known.votes.values())
            tables[name].append({c: [getattr(b, c) for b in ballots] for c in COLUMNS})
    for action, outcome in votes:
        table = outcome["votes.parquet"]
        name = action.config["teacher"]["name"]
        if isinstance(table, Ref) and name in tables:
            tables[name].append(read_table(store.path(table), COLUMNS))
    return {t.name: _labels(tables[t.name], t.calibration) for t in recipe.panel}


def _labels(tables: Sequence[Mapping[str, Sequence[Any]]], calibration: str) -> Votes:
    """None are known while what is taken off them isn't."""
    known = any(CONTENT_FREE_ID in table["example_id"] for table in tables)
    if calibration == "content_free" and not known:
        return {}
    return labels_of(tables, calibration)[0]


def priced(one: Wanted, *, question: Callable[[str], Question]) -> Purchase:
    """What that would cost."""
    teacher, render = one.teacher, one.render
    if isinstance(one.most, int):
        messages, times = [render(TYPICAL, "text")], one.most
    else:
        messages, times = [render(question(i), "text") for i in one.most], 1
    count = times * len(messages)
    prompt = times * sum(map(likely_tokens, messages))
    completion = count * _likely_completion(teacher, one.entries)
    price = price_of(teacher)
    return Purchase(
        teacher=teacher.name,
        begun=0 if isinstance(one.most, int) else sum(i in one.begun for i in one.most),
        least=count_of(one.surely),
        most=count,
        prompt_tokens=prompt,
        completion_tokens=completion,
        price=price,
        usd=price.of(prompt, completion) if price else None,
        longest_usd=price.of(prompt, count * teacher.max_tokens) if price else None,
    )


def _likely_completion(teacher: TeacherConfig, entries: Entries) -> float:
    """Tokens of a reply: as many as this teacher's have had so far."""
    seen = [a.completion_tokens for a in entries.attempts if a.outcome == "vote"]
    if len(seen) >= ENOUGH:
        return fmean(seen)
    if teacher.max_tokens <= SHORT_REPLY:
        return min(LIKELY_TOKENS, teacher.max_tokens)
    return teacher.max_tokens / REASONING_SHARE


def capped(
    runtime: RuntimeConfig, ledgers: Iterable[str], *, store: Store, ids: Sequence[str] | None
) -> dict[str, Any]:
    """A run's caps, and what of them is spent (null without a cap, and while the examples aren't
    known). `ledgers`: those of the teachers that cost money."""
    caps = {name: getattr(runtime, name) for name in ("budget_usd", "budget_votes")}
    usd, count = None, None
    found = list(ledgers)
    if found and ids is not None and any(cap is not None for cap in caps.values()):
        usd, count = spent(map(store.ledger, found), ids)
    return {
        **caps,
        "spent_usd": usd,
        "spent_votes": count,
    }


def told(found: Sequence[Purchase]) -> dict[str, Any]:
    """As a plan's fields. `cost_usd` is null where a price is unknown."""
    return {
        "votes": sum(purchase.most for purchase in found),
        "votes_least": sum(purchase.least for purchase in found),
        "cost_usd": _sum(purchase.usd for purchase in found),
        "cost_usd_least": _sum(_usd_least(purchase) for purchase in found),
        "cost_usd_longest": _sum(purchase.longest_usd for purchase in found),
        "purchases": [
            {
                "teacher": p.teacher,
                "votes": p.most,
                "votes_least": p.least,
                "begun": p.begun,
                "prompt_tokens": round(p.prompt_tokens),
                "completion_tokens": round(p.completion_tokens),
                "cost_usd": None if p.usd is None else round(p.usd, 6),
                "cost_usd_longest": None if p.longest_usd is None else round(p.longest_usd, 6),
                "usd_per_million": None
                if p.price is None
                else [round(1e6 * p.price.prompt, 6), round(1e6 * p.price.completion, 6)],
            }
            for p in found
        ],
    }


def _usd_least(purchase: Purchase) -> float | None:
    return purchase.usd and purchase.usd * purchase.least / purchase.most


def _sum(dollars: Iterable[float | None]) -> float | None:
    """Null where one is."""
    known = list(dollars)
    return None if None in known else round(sum(filter(None, known)), 6)


def votes_line(planned: Mapping[str, Any]) -> str:
    """How many votes, for how much; where voting is curtailed, from least to most."""
    votes, least = planned["votes"], planned["votes_least"]
    cost, cost_least = planned["cost_usd"], planned["cost_usd_least"]
    if not votes:
        return "votes to buy: 0"
    about = "" if planned["votes_exact"] else "about "
    count = about + _between(least, votes)
    if cost is None:
        return f"votes to buy: {count} (cost unknown)"
    low, high = _dollars(cost_least), _dollars(cost)
    return f"votes to buy: {count} (about {high if low == high else f'{low} to {high}'})"


def cap_line(planned: Mapping[str, Any]) -> str:
    """What of the caps is spent; empty without a cap."""
    budget, parts = planned["budget"], []
    known = budget["spent_votes"] is not None
    if budget["budget_usd"] is not None:
        spent_usd = f"${budget['spent_usd']:.4f}" if known else "unknown"
        parts.append(f"{spent_usd} of ${budget['budget_usd']:g}")
    if budget["budget_votes"] is not None:
        spent_votes = budget["spent_votes"] if known else "unknown"
        parts.append(f"{spent_votes} of {budget['budget_votes']} votes")
    until_known = "" if known else " (until the data has been prepared once)"
    return f"spent of the cap: {', '.join(parts)}{until_known}" if parts else ""


def purchase_table(planned: Mapping[str, Any]) -> str:
    """For people: what each teacher would cost."""
    rows = [
        [
            p["teacher"],
            _between(p["votes_least"], p["votes"]),
            str(p["begun"]),
            _count(p["prompt_tokens"]),
            _count(p["completion_tokens"]),
            _prices(p["usd_per_million"]),
            _dollars(p["cost_usd"]),
            _dollars(p["cost_usd_longest"]),
        ]
        for p in planned["purchases"]
    ]
    header = (
        "teacher",
        "votes",
        "on begun examples",
        "tokens in",
        "out",
        "$ a million",
        "cost about",
        "longest replies",
    )
    return table(header, rows)


def _prices(usd: Sequence[float] | None) -> str:
    return "unknown" if usd is None else f"{usd[0]:g} / {usd[1]:g}"


def _between(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _count(tokens: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if tokens >= size:
            return f"{tokens / size:.1f} {unit}"
    return f"{tokens:.0f}"


def _dollars(usd: float | None) -> str:
    return "unknown" if usd is None else f"${usd:.2f}"
