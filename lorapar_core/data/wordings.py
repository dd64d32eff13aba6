"""The sentences of the arithmetic problems: what is told, asked and worked, with gaps.

A `Wording` has a text, the ranges its numbers are drawn from, and its steps. In a text and in the
line of a step,

- {A}, {B} and {C} are people; {he}, {He}, {him} and {his} speak of A;
- {a} is a number, {a:page} a number and its noun in the right number ("1 page", "2 pages"),
  {a:$} an amount of money;
- {TOY}, {TOYS} and {a:TOY} are a noun out of NOUNS, drawn once a problem;
- in a step's own line, its result stands with its calculation: {x:page} is "5 + 3 = 8 pages".

A number is drawn from (low, high), both included, or worked out from others ("b * q"), which is how
divisions come out even. The test split has wordings of its own, so that no test problem is a
training problem with other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# fmt: off
GIRLS = [
    "Amara", "Ana", "Carla", "Dalia", "Elena", "Emma", "Grace", "Hana", "Ingrid", "Julia",
    "Leila", "Lucy", "Maya", "Mei", "Nadia", "Nora", "Olivia", "Priya", "Rosa", "Ruth", "Sofia",
    "Talia", "Yara", "Zoe",
]
BOYS = [
    "Adam", "Ben", "Daniel", "Diego", "Felix", "Finn", "Hugo", "Ivan", "Jonas", "Kofi", "Leo",
    "Luis", "Marco", "Milan", "Noah", "Omar", "Oscar", "Paul", "Ravi", "Sam", "Tariq", "Walid",
    "Tom", "Yusuf",
]
# fmt: on

NOUNS = {
    "TOY": ["marble", "sticker", "shell", "stamp", "button", "bead", "postcard", "trading card"],
    "FRUIT": ["apple", "pear", "orange", "plum", "peach", "lemon", "mango", "apricot"],
    "BAKE": ["cookie", "muffin", "roll", "scone", "bagel", "cupcake", "pastry", "waffle"],
    "PEN": ["pencil", "pen", "notebook", "eraser", "crayon", "marker", "folder", "ruler"],
    "FLOWER": ["rose", "tulip", "daisy", "lily", "sunflower", "carnation", "pansy", "iris"],
    "ANIMAL": ["hen", "goat", "cow", "duck", "rabbit", "lamb", "pony", "turkey"],
    "CRATE": ["box", "bag", "basket", "crate"],
}

Draw = Mapping[str, "tuple[int, int] | str"]


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to tell a problem."""

    text: str
    draws: Draw
    """Name of a number -> its range, or how it follows from names drawn before it."""
    steps: tuple[tuple[str, str, str], ...]
    """(result, calculation, line), in order; the last result is the answer."""


def _one(text: str, draws: Draw, calculation: str, line: str) -> Wording:
    return Wording(text, draws, (("x", calculation, line),))


def _many(text: str, draws: Draw, *steps: str) -> Wording:
    """Steps as "x = a + b: line"."""
    parsed = []
    for step in steps:
        head, line = step.split(": ", 1)
        result, calculation = head.split(" = ")
        parsed.append((result, calculation, line))
    return Wording(text, draws, tuple(parsed))


TRAIN_SINGLE = (
    _one(
        "{A} has {a:TOY}. {B} gives {him} {b} more. How many {TOYS} does {A} have now?",
        {"a": (3, 60), "b": (2, 40)},
        "a + b",
        "{A} has {x:TOY}.",
    ),
    _one(
        "There are {a:FRUIT} in a bowl and {b:FRUIT} on the table. How many {FRUITS} are there in "
        "all?",
        {"a": (2, 15), "b": (2, 15)},
        "a + b",
        "There are {x:FRUIT}.",
    ),
    _one(
        "{A} baked {a:BAKE} and gave {b} of them to {his} neighbors. How many {BAKES} does {A} "
        "have left?",
        {"a": (12, 60), "b": (3, 40)},
        "a - b",
        "{A} has {x:BAKE} left.",
    ),
    _one(
        "A shop has {a:PEN} on the shelf and sells {b} of them in one day. How many {PENS} are "
        "left on the shelf?",
        {"a": (30, 200), "b": (5, 90)},
        "a - b",
        "The shelf has {x:PEN} left.",
    ),
    _one(
        "Each {CRATE} holds {a:FRUIT}. How many {FRUITS} are there in {b:CRATE}?",
        {"a": (4, 25), "b": (2, 9)},
        "b * a",
        "There are {x:FRUIT}.",
    ),
    _one(
        "{A} shares {a:BAKE} equally among {b:child}. How many {BAKES} does each child get?",
        {"b": (2, 8), "q": (2, 9), "a": "b * q"},
        "a / b",
        "Each child gets {x:BAKE}.",
    ),
    _one(
        "A book has {a:page}. {A} reads {b:page} every day. How many days does {A} need to finish "
        "the book?",
        {"b": (8, 30), "q": (3, 12), "a": "b * q"},
        "a / b",
        "{A} needs {x:day}.",
    ),
    _one(
        "A ticket to the museum costs {a:$}. How much do {b:ticket} cost?",
        {"a": (4, 18), "b": (2, 9)},
        "b * a",
        "The tickets cost {x:$}.",
    ),
    _one(
        "{A} had {a:$} and spent {b:$} on a present. How much money does {he} have left?",
        {"a": (20, 95), "b": (5, 70)},
        "a - b",
        "{A} has {x:$} left.",
    ),
    _one(
        "A school has {a:girl} and {b:boy}. How many students does the school have?",
        {"a": (80, 400), "b": (80, 400)},
        "a + b",
        "The school has {x:student}.",
    ),
    _one(
        "{A} is {a:year} old. {B} is {b:year} older than {A}. How old is {B}?",
        {"a": (5, 40), "b": (2, 20)},
        "a + b",
        "{B} is {x:year} old.",
    ),
    _one(
        "{A} walked {a:mile} on Saturday and {b:mile} on Sunday. How many miles did {A} walk on "
        "the two days?",
        {"a": (2, 12), "b": (2, 12)},
        "a + b",
        "{A} walked {x:mile}.",
    ),
    _one(
        "A bus leaves the station with {a:person} on board. At the first stop, {b} of them get "
        "off. How many people are still on the bus?",
        {"a": (20, 50), "b": (3, 18)},
        "a - b",
        "The bus still has {x:person} on board.",
    ),
    _one(
        "A garden has {a:row} of {FLOWERS} with {b:FLOWER} in each row. How many {FLOWERS} grow "
        "in the garden?",
        {"a": (3, 12), "b": (4, 15)},
        "a * b",
        "The garden has {x:FLOWER}.",
    ),
    _one(
        "{A} wants to collect {a:TOY} and has {b} so far. How many more {TOYS} does {he} need?",
        {"a": (20, 120), "b": (5, 100)},
        "a - b",
        "{A} needs {x} more.",
    ),
    _one(
        "{A} packs {a:PEN} into boxes of {b}. How many boxes does {he} fill?",
        {"b": (4, 12), "q": (3, 15), "a": "b * q"},
        "a / b",
        "{A} fills {x:box}.",
    ),
    _one(
        "A movie is {a:minute} long. {A} has watched {b:minute} of it. How many minutes of the "
        "movie are left?",
        {"a": (85, 150), "b": (15, 75)},
        "a - b",
        "The movie goes on for {x:minute}.",
    ),
    _one(
        "{A} earns {a:$} an hour. How much does {he} earn in {b:hour}?",
        {"a": (9, 25), "b": (2, 8)},
        "b * a",
        "{A} earns {x:$}.",
    ),
    _one(
        "A farm has {a:ANIMAL} in one field and {b} in another. How many {ANIMALS} does the farm "
        "have?",
        {"a": (4, 45), "b": (4, 45)},
        "a + b",
        "The farm has {x:ANIMAL}.",
    ),
    _one(
        "{A} has {a:TOY} and {B} has {b}. How many more {TOYS} does {A} have than {B}?",
        {"a": (12, 80), "b": (4, 60)},
        "a - b",
        "{A} has {x} more than {B}.",
    ),
    _one(
        "A theater has {a:seat} in {b} equal rows. How many seats are there in each row?",
        {"b": (6, 20), "q": (8, 25), "a": "b * q"},
        "a / b",
        "Each row has {x:seat}.",
    ),
    _one(
        "{A} runs {a:lap} around the park every day. How many laps does {he} run in a week of 7 "
        "days?",
        {"a": (2, 15)},
        "7 * a",
        "{A} runs {x:lap}.",
    ),
    _one(
        "{A} cuts a rope that is {a:foot} long into pieces of {b:foot} each. How many pieces does "
        "{he} get?",
        {"b": (2, 9), "q": (3, 12), "a": "b * q"},
        "a / b",
        "{A} gets {x:piece}.",
    ),
    _one(
        "A library lends out {a:book} in the morning and {b:book} in the afternoon. How many "
        "books does it lend out that day?",
        {"a": (40, 300), "b": (40, 300)},
        "a + b",
        "The library lends out {x:book}.",
    ),
    _one(
        "A bakery made {a:loaf} of bread on Saturday and {b} on Friday. How many more loaves did "
        "it make on Saturday than on Friday?",
        {"a": (80, 260), "b": (40, 180)},
        "a - b",
        "It made {x} more on Saturday.",
    ),
    _one(
        "A class has {a:student}. Half of them walk to school. How many students walk to school?",
        {"q": (7, 17), "a": "q * 2"},
        "a / 2",
        "The number of students who walk is {x}.",
    ),
    _one(
        "{A} saves {a:$} every week. How much does {he} save in {b:week}?",
        {"a": (3, 30), "b": (2, 12)},
        "b * a",
        "{A} saves {x:$}.",
    ),
    _one(
        "A teacher hands out {a:PEN} to {b:student}, the same number to each. How many {PENS} "
        "does each student get?",
        {"b": (5, 25), "q": (2, 6), "a": "b * q"},
        "a / b",
        "Each student gets {x:PEN}.",
    ),
)

TRAIN_MULTI = (
    _many(
        "{A} has {a:TOY}. {B} gives {him} {b} more, and then {A} loses {c} of them. How many "
        "{TOYS} does {A} have now?",
        {"a": (5, 50), "b": (3, 30), "c": (2, 20)},
        "x = a + b: With the gift, {A} has {x:TOY}.",
        "y = x - c: Now {A} has {y:TOY}.",
    ),
    _many(
        "{A} buys {a:notebook} for {b:$} each and a pen for {c:$}. How much does {he} pay?",
        {"a": (2, 8), "b": (3, 6), "c": (2, 5)},
        "x = a * b: The notebooks cost {x:$}.",
        "y = x + c: {A} pays {y:$}.",
    ),
    _many(
        "{A} buys {a:sandwich} for {b:$} each and pays with a $50 bill. How much change does "
        "{he} get?",
        {"a": (2, 5), "b": (4, 9)},
        "x = a * b: The sandwiches cost {x:$}.",
        "y = 50 - x: {A} gets {y:$} back.",
    ),
    _many(
        "A store gets {a:CRATE} of {FRUITS} with {b:FRUIT} in each. It has to throw away {c} of "
        "the {FRUITS}. How many {FRUITS} are left?",
        {"a": (3, 9), "b": (8, 30), "c": (3, 20)},
        "x = a * b: The store gets {x:FRUIT}.",
        "y = x - c: It has {y:FRUIT} left.",
    ),
    _many(
        "{A} has {a:TOY}. {B} has twice as many. How many {TOYS} do they have together?",
        {"a": (4, 60)},
        "x = 2 * a: {B} has {x:TOY}.",
        "y = a + x: Together they have {y:TOY}.",
    ),
    _many(
        "{A} is reading a book of {c:page}. {He} reads {a:page} on Monday and {b:page} on "
        "Tuesday. How many pages are left to read?",
        {"a": (12, 60), "b": (12, 60), "c": (150, 320)},
        "x = a + b: {A} has read {x:page}.",
        "y = c - x: The rest of the book is {y:page}.",
    ),
    _many(
        "{A} bakes {a:tray} of {BAKES} with {b:BAKE} on each tray. {He} gives {c} of them to "
        "friends and keeps the rest. How many {BAKES} does {he} keep?",
        {"a": (2, 6), "b": (6, 15), "c": (3, 20)},
        "x = a * b: {A} bakes {x:BAKE}.",
        "y = x - c: {A} keeps {y:BAKE}.",
    ),
    _many(
        "{A} picks {a:FRUIT} and {B} picks {b}. They share all of them equally. How many "
        "{FRUITS} does each of them get?",
        {"a": (8, 50), "b": (8, 50)},
        "x = a + b: Together they pick {x:FRUIT}.",
        "y = x / 2: Each of them gets {y:FRUIT}.",
    ),
    _many(
        "A taxi ride costs {a:$} to start and {b:$} for each mile. How much does a ride of "
        "{c:mile} cost?",
        {"a": (3, 6), "b": (2, 4), "c": (3, 20)},
        "x = c * b: The miles cost {x:$}.",
        "y = a + x: The ride costs {y:$}.",
    ),
    _many(
        "{A} earns {a:$} an hour. {He} works {b:hour} on Friday and {c:hour} on Saturday. How "
        "much does {he} earn on the two days?",
        {"a": (9, 22), "b": (2, 8), "c": (2, 8)},
        "x = b + c: {A} works {x:hour}.",
        "y = x * a: {A} earns {y:$}.",
    ),
    _many(
        "A school rents {a:bus} with {b:seat} each for {c} students. How many seats stay empty?",
        {"a": (2, 6), "b": (30, 52), "e": (3, 20), "t": "a * b", "c": "t - e"},
        "x = a * b: The buses have {x:seat}.",
        "y = x - c: The number of empty seats is {y}.",
    ),
    _many(
        "{A} saves {a:$} a week for {b:week}. Then {he} buys a jacket for {c:$}. How much money "
        "does {he} have left?",
        {"a": (8, 25), "b": (4, 10), "c": (25, 70)},
        "x = a * b: {A} saves {x:$}.",
        "y = x - c: {A} has {y:$} left.",
    ),
    _many(
        "{A} has {a:TOY}. {B} has {b} more than {A}, and {C} has twice as many as {B}. How many "
        "{TOYS} do the three of them have together?",
        {"a": (4, 25), "b": (2, 12)},
        "x = a + b: {B} has {x:TOY}.",
        "y = 2 * x: {C} has {y:TOY}.",
        "z = a + x: {A} and {B} have {z:TOY}.",
        "w = z + y: All three have {w:TOY}.",
    ),
    _many(
        "{A} buys {a:shirt} for {b:$} each and {c:hat} for {d:$} each. How much does {he} spend?",
        {"a": (2, 5), "b": (12, 25), "c": (2, 4), "d": (6, 15)},
        "x = a * b: The shirts cost {x:$}.",
        "y = c * d: The hats cost {y:$}.",
        "z = x + y: {A} spends {z:$}.",
    ),
    _many(
        "{A} has {e:$}. {He} buys {a:plant} for {b:$} each and {c:pot} for {d:$} each. How much "
        "money does {he} have left?",
        {"a": (2, 6), "b": (3, 9), "c": (2, 6), "d": (2, 8), "e": (80, 120)},
        "x = a * b: The plants cost {x:$}.",
        "y = c * d: The pots cost {y:$}.",
        "z = x + y: {A} spends {z:$}.",
        "w = e - z: {A} has {w:$} left.",
    ),
    _many(
        "The hens on a farm lay {a:egg} a day. How many cartons of 12 can be filled with the eggs "
        "of {b:day}?",
        {"a": (24, 96), "b": (2, 7)},
        "x = a * b: The hens lay {x:egg}.",
        "y = x / 12: The eggs fill {y:carton}.",
    ),
    _many(
        "{A} runs {a:mile} on each of the 5 weekdays and {b:mile} on each of the 2 days of the "
        "weekend. How many miles does {he} run in a week?",
        {"a": (2, 6), "b": (3, 12)},
        "x = 5 * a: On weekdays {A} runs {x:mile}.",
        "y = 2 * b: On the weekend {A} runs {y:mile}.",
        "z = x + y: In the week {A} runs {z:mile}.",
    ),
    _many(
        "A class has {a:student}. On Monday, {b} of them are absent. The others work in groups of "
        "{c}. How many groups are there?",
        {"b": (2, 6), "c": (2, 5), "q": (4, 9), "t": "c * q", "a": "t + b"},
        "x = a - b: On Monday the class has {x:student}.",
        "y = x / c: They form {y:group}.",
    ),
    _many(
        "{A} is {a:year} old. {B} is twice as old as {A}, and {C} is {b:year} younger than {B}. "
        "How old is {C}?",
        {"a": (7, 25), "b": (2, 9)},
        "x = 2 * a: {B} is {x:year} old.",
        "y = x - b: {C} is {y:year} old.",
    ),
    _many(
        "A tank holds {a:gallon} of water and has {b:gallon} in it. A hose adds {c:gallon} a "
        "minute. How many minutes does it take to fill the tank?",
        {"b": (10, 60), "c": (3, 12), "q": (4, 20), "t": "c * q", "a": "t + b"},
        "x = a - b: The tank needs {x:gallon} more.",
        "y = x / c: That takes {y:minute}.",
    ),
    _many(
        "A bakery makes {a:loaf} of bread. It sells {b} in the morning and {c} in the afternoon. "
        "How many loaves are left?",
        {"a": (90, 220), "b": (25, 80), "c": (20, 70)},
        "x = b + c: The bakery sells {x:loaf}.",
        "y = a - x: It has {y:loaf} left.",
    ),
    _many(
        "A zoo ticket costs {a:$} for an adult and {b:$} for a child. How much do tickets for "
        "{c:adult} and {d:child} cost?",
        {"a": (12, 24), "b": (5, 11), "c": (2, 4), "d": (2, 6)},
        "x = c * a: The adults pay {x:$}.",
        "y = d * b: The children pay {y:$}.",
        "z = x + y: Together the tickets cost {z:$}.",
    ),
    _many(
        "{A} keeps {a:TOY} in each of {b:box} and has {c} more on a shelf. How many {TOYS} does "
        "{he} have?",
        {"a": (6, 25), "b": (2, 9), "c": (3, 20)},
        "x = b * a: The boxes hold {x:TOY}.",
        "y = x + c: {A} has {y:TOY}.",
    ),
    _many(
        "A shop has {a:bicycle}. It sells half of them in May and {b} more in June. How many "
        "bicycles are left?",
        {"q": (12, 45), "a": "q * 2", "b": (2, 20)},
        "x = a / 2: After May the shop has {x:bicycle} left.",
        "y = x - b: After June it has {y:bicycle} left.",
    ),
    _many(
        "Four friends order pizza for {a:$} and drinks for {b:$}. They split the bill equally. How "
        "much does each of them pay?",
        {"a": (24, 60), "b": (8, 24)},
        "x = a + b: The bill is {x:$}.",
        "y = x / 4: Each of them pays {y:$}.",
    ),
    _many(
        "{A} types {a:word} a minute and {B} types {b:word} a minute. How many more words does "
        "{A} type in {c:minute}?",
        {"a": (45, 80), "b": (25, 60), "c": (3, 15)},
        "x = a - b: Each minute {A} types {x:word} more.",
        "y = c * x: In {c:minute} {A} types {y:word} more.",
    ),
    _many(
        "A hotel has {a:floor} with {b:room} on each floor. Tonight {c} of the rooms are taken. "
        "How many rooms are free?",
        {"a": (3, 9), "b": (10, 24), "c": (15, 100)},
        "x = a * b: The hotel has {x:room}.",
        "y = x - c: The number of free rooms is {y}.",
    ),
    _many(
        "A young tree is {a:inch} tall and grows {b:inch} every month. How tall is it after "
        "{c:month}?",
        {"a": (12, 48), "b": (2, 5), "c": (3, 18)},
        "x = c * b: The tree grows {x:inch}.",
        "y = a + x: Then it is {y:inch} tall.",
    ),
)

TEST_SINGLE = (
    _one(
        "A jar holds {a:TOY}. {A} takes out {b} of them. How many {TOYS} stay in the jar?",
        {"a": (15, 90), "b": (3, 70)},
        "a - b",
        "The jar keeps {x:TOY}.",
    ),
    _one(
        "{A} mailed {a:letter} in May and {b:letter} in June. How many letters did {he} mail in "
        "the two months?",
        {"a": (3, 40), "b": (3, 40)},
        "a + b",
        "{A} mailed {x:letter}.",
    ),
    _one(
        "A tricycle has 3 wheels. How many wheels do {a:tricycle} have?",
        {"a": (3, 40)},
        "a * 3",
        "They have {x:wheel}.",
    ),
    _one(
        "{A} pours {a:cup} of juice into {b:pitcher}, the same amount into each. How many cups of "
        "juice does each pitcher hold?",
        {"b": (2, 7), "q": (2, 9), "a": "b * q"},
        "a / b",
        "Each pitcher holds {x:cup}.",
    ),
    _one(
        "A trail is {a:kilometer} long. {A} has hiked {b:kilometer} of it. How many kilometers "
        "does {he} still have to hike?",
        {"a": (12, 60), "b": (3, 45)},
        "a - b",
        "{A} still has to hike {x:kilometer}.",
    ),
    _one(
        "A cinema sold {a:ticket} to adults and {b} to children. How many tickets did it sell?",
        {"a": (40, 280), "b": (40, 280)},
        "a + b",
        "The cinema sold {x:ticket}.",
    ),
    _one(
        "One pack of {PENS} costs {a:$}. What do {b:pack} cost?",
        {"a": (3, 14), "b": (2, 12)},
        "b * a",
        "The packs cost {x:$}.",
    ),
    _one(
        "{A} swam {a:lap} in the pool. {B} swam {b} fewer. How many laps did {B} swim?",
        {"a": (14, 60), "b": (2, 30)},
        "a - b",
        "{B} swam {x:lap}.",
    ),
    _one(
        "A parking lot has {a:row} with space for {b:car} in each row. How many cars fit in the "
        "parking lot?",
        {"a": (4, 15), "b": (8, 25)},
        "a * b",
        "The parking lot has space for {x:car}.",
    ),
    _one(
        "For a tournament, {a:player} are put into teams of {b}. How many teams are there?",
        {"b": (3, 11), "q": (4, 16), "a": "b * q"},
        "a / b",
        "There are {x:team}.",
    ),
    _one(
        "It was {a:degree} at noon. By night, the temperature had fallen by {b:degree}. What was "
        "the temperature at night?",
        {"a": (50, 95), "b": (6, 35)},
        "a - b",
        "At night it was {x:degree}.",
    ),
    _one(
        "{A} spent {a:minute} on math homework and {b:minute} on spelling. How many minutes of "
        "homework did {he} do?",
        {"a": (10, 60), "b": (10, 45)},
        "a + b",
        "{A} did homework for {x:minute}.",
    ),
)

TEST_MULTI = (
    _many(
        "A gardener plants {a:row} of {b:FLOWER} each. In the summer, {c} of the {FLOWERS} wilt. "
        "How many {FLOWERS} are left?",
        {"a": (3, 12), "b": (5, 18), "c": (3, 14)},
        "x = a * b: The gardener plants {x:FLOWER}.",
        "y = x - c: The garden has {y:FLOWER} left.",
    ),
    _many(
        "{A} had {a:$}. {He} bought {b:book} for {c:$} each. How much money did {he} have left?",
        {"b": (2, 7), "c": (6, 15), "r": (4, 40), "t": "b * c", "a": "t + r"},
        "x = b * c: The books cost {x:$}.",
        "y = a - x: {A} had {y:$} left.",
    ),
    _many(
        "A train carries {a:passenger}. At a station, {b} of them get off and {c} other people "
        "get on. How many passengers does the train carry now?",
        {"a": (90, 260), "b": (15, 80), "c": (10, 70)},
        "x = a - b: Without those who get off, it carries {x:passenger}.",
        "y = x + c: With the new ones, it carries {y:passenger}.",
    ),
    _many(
        "{A} picks {a:FRUIT} and {B} picks three times as many. They pack all of them into bags "
        "of {b}. How many bags do they fill?",
        {"a": (6, 30), "b": (4, 8)},
        "x = 3 * a: {B} picks {x:FRUIT}.",
        "y = a + x: Together they pick {y:FRUIT}.",
        "z = y / b: They fill {z:bag}.",
    ),
    _many(
        "The home team scored {a:point} in the first half and {b} in the second. The visitors "
        "scored {c:point} in the whole game. By how many points did the home team win?",
        {"a": (24, 55), "b": (24, 55), "r": (2, 20), "t": "a + b", "c": "t - r"},
        "x = a + b: The home team scored {x:point}.",
        "y = x - c: It won by {y:point}.",
    ),
    _many(
        "A school orders {a:pack} of {PENS} with {b:PEN} in each pack. It divides them equally "
        "among {c:classroom}. How many {PENS} does each classroom get?",
        {"a": (4, 18), "b": (6, 24), "c": (3, 12)},
        "x = a * b: The school orders {x:PEN}.",
        "y = x / c: Each classroom gets {y:PEN}.",
    ),
    _many(
        "{A} drives {a:mile} an hour for {b:hour} and then another {c:mile} to {his} hotel. How "
        "many miles does {he} drive in all?",
        {"a": (35, 65), "b": (2, 6), "c": (5, 40)},
        "x = b * a: In {b:hour} {A} drives {x:mile}.",
        "y = x + c: In all {A} drives {y:mile}.",
    ),
    _many(
        "A cake needs {a:cup} of flour and a pie needs {b:cup}. How many cups of flour do "
        "{c:cake} and {d:pie} need?",
        {"a": (3, 5), "b": (2, 3), "c": (2, 8), "d": (2, 8)},
        "x = c * a: The cakes need {x:cup}.",
        "y = d * b: The pies need {y:cup}.",
        "z = x + y: Together they need {z:cup}.",
    ),
    _many(
        "A chess club has {a:member} and wants to have {c}. Every month {b} people join. After "
        "how many months does the club reach its goal?",
        {"a": (12, 40), "b": (2, 8), "q": (3, 12), "t": "b * q", "c": "a + t"},
        "x = c - a: The club needs {x} new members.",
        "y = x / b: That takes {y:month}.",
    ),
    _many(
        "{A} orders {a:pizza} that are each cut into 8 slices. The guests eat {b:slice}. How many "
        "slices are left?",
        {"a": (2, 7), "b": (6, 50)},
        "x = a * 8: The pizzas have {x:slice}.",
        "y = x - b: The guests leave {y:slice}.",
    ),
    _many(
        "A market stall sells {a:FRUIT} on Monday, twice as many on Tuesday and {b} on Wednesday. "
        "How many {FRUITS} does it sell on the three days?",
        {"a": (10, 70), "b": (10, 90)},
        "x = 2 * a: On Tuesday the stall sells {x:FRUIT}.",
        "y = a + x: On the first two days it sells {y:FRUIT}.",
        "z = y + b: On all three days it sells {z:FRUIT}.",
    ),
    _many(
        "{A} works {a:hour} a day for {b:day} and earns {c:$} an hour. How much does {he} earn "
        "in all?",
        {"a": (3, 8), "b": (2, 6), "c": (10, 20)},
        "x = b * a: {A} works {x:hour}.",
        "y = x * c: {A} earns {y:$}.",
    ),
)

WORDINGS = {
    ("train", "single"): TRAIN_SINGLE,
    ("train", "multi"): TRAIN_MULTI,
    ("test", "single"): TEST_SINGLE,
    ("test", "multi"): TEST_MULTI,
}
