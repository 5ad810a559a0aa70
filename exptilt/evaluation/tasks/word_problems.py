"""Generated arithmetic word problems with worked solutions.

A problem is a short story about one quantity that changes clause by clause, for example the
stickers of a child or the passengers of a bus. Every clause contributes one or two equations,
so the solution is a chain of equations `a op b = c`, one per line, that ends with `#### answer`. All numbers
are non-negative integers and every division is exact.

The training and the test split cannot overlap: a hash of the question text decides to which one it belongs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

Split = Literal["train", "test"]

LIMIT = 200  # no intermediate result is larger than this
STEPS = (2, 3, 4, 5)  # possible numbers of equations, drawn with the weights below
STEP_WEIGHTS = (2, 3, 3, 2)
START = (10, 80)  # the quantity a story starts from
CHANGE = (5, 60)  # a plain addition or subtraction
GROUPS = (2, 9)  # how many equal groups come or go
GROUP_SIZE = (3, 20)  # how many things are in one group
FACTOR = (2, 5)  # the whole quantity is multiplied or divided by this
TEST_SHARE = 8  # one question in this many belongs to the test split


@dataclass(frozen=True)
class Problem:
    """A question, its worked solution (equation lines and `#### answer`), and the answer alone."""

    question: str
    solution: str
    answer: str

    @property
    def steps(self) -> int:
        """Number of equations in the worked solution."""
        return self.solution.count("\n")


@dataclass(frozen=True)
class Family:
    """The sentences of one kind of story; `clauses` maps what a sentence does to its variants."""

    things: tuple[str, ...]
    openings: tuple[str, ...]
    clauses: dict[str, tuple[str, ...]]
    questions: tuple[str, ...]


PEOPLE = (
    ("Mia", "she", "her"),
    ("Tom", "he", "him"),
    ("Nora", "she", "her"),
    ("Ben", "he", "him"),
    ("Lena", "she", "her"),
    ("Omar", "he", "him"),
    ("Ruth", "she", "her"),
    ("Ivan", "he", "him"),
    ("Aisha", "she", "her"),
    ("Felix", "he", "him"),
    ("Clara", "she", "her"),
    ("Hugo", "he", "him"),
    ("Yuki", "she", "her"),
    ("Samir", "he", "him"),
    ("Greta", "she", "her"),
    ("Paul", "he", "him"),
)
LINKS = ("", "", "", "then ", "later ", "after that ", "the next day ")

FAMILIES = (
    Family(
        ("marbles", "stickers", "stamps", "shells", "buttons", "cards", "beads", "apples", "pencils", "badges"),
        ("{name} has {n} {things}.", "{name} starts the week with {n} {things}.", "{name} finds {n} {things} in a box."),
        {
            "add": ("{she} picks up {n} more", "{friend} gives {her} {n} {things}", "{she} wins {n} {things} in a game"),
            "take": ("{she} gives {n} {things} to {friend}", "{she} loses {n} of them", "{she} sells {n} {things}"),
            "add groups": ("{she} buys {a} bags with {b} {things} each", "{a} friends bring {her} {b} {things} each"),
            "take groups": ("{she} hands {a} cousins {b} {things} each", "{she} fills {a} jars with {b} each and sells them"),
            "times": ("a lucky trade leaves {her} with {k} times as many",),
            "share": ("{she} sorts them into {k} equal piles and keeps one pile",),
            "less": ("{friend} has {n} fewer {things} than {name}",),
            "more": ("{friend} has {n} more {things} than {name}",),
        },
        ("How many {things} does {name} have now?", "How many {things} are left with {name}?"),
    ),
    Family(
        ("dollars", "euros", "coins", "tokens"),
        ("{name} has {n} {things} in a purse.", "{name} saved {n} {things}.", "{name} gets {n} {things} as a birthday gift."),
        {
            "add": ("{she} earns {n} {things} by washing cars", "{friend} pays back {n} {things}"),
            "take": (
                "{she} spends {n} {things} on a book",
                "a ticket costs {her} {n} {things}",
                "{she} lends {friend} {n} {things}",
            ),
            "add groups": ("{she} works {a} hours for {b} {things} an hour", "{she} sells {a} pictures for {b} {things} each"),
            "take groups": ("{she} buys {a} toys for {b} {things} each", "{she} pays {a} bills of {b} {things} each"),
            "times": ("a grandmother makes it {k} times as much",),
            "share": ("{she} splits the money equally among {k} people and takes one part",),
            "less": ("{friend} has {n} {things} less than {name}",),
            "more": ("{friend} has {n} {things} more than {name}",),
        },
        ("How many {things} does {name} have in the end?", "How much money does {name} have now, in {things}?"),
    ),
    Family(
        ("people", "passengers", "visitors", "children"),
        ("A train leaves with {n} {things}.", "There are {n} {things} in a hall.", "{n} {things} board a ferry."),
        {
            "add": ("{n} more come in", "a guide brings {n} {things}", "another {n} {things} join them"),
            "take": ("{n} of them leave", "{n} {things} get out", "{n} {things} go home early"),
            "add groups": ("{a} groups of {b} {things} enter", "{a} vans arrive with {b} {things} in each"),
            "take groups": ("{a} cabs drive off with {b} {things} each", "{a} teams of {b} {things} walk out"),
            "times": ("by noon there are {k} times as many",),
            "share": ("they form {k} equal lines and only one line stays",),
        },
        ("How many {things} are there now?", "How many {things} remain at the end?"),
    ),
    Family(
        ("rolls", "muffins", "cakes", "pies", "bagels"),
        ("A bakery opens with {n} {things}.", "{name} bakes {n} {things} at dawn.", "A shelf holds {n} {things}."),
        {
            "add": ("the baker adds {n} {things}", "{friend} delivers {n} fresh {things}"),
            "take": ("a school orders {n} of them", "{n} {things} get burnt", "{n} {things} are sold before lunch"),
            "add groups": ("the oven turns out {a} trays of {b} {things}", "{a} cooks make {b} {things} each"),
            "take groups": ("{a} customers buy {b} {things} each", "{a} boxes of {b} {things} go to a fair"),
            "times": ("a big order means there must be {k} times as many",),
            "share": ("they are packed into {k} equal crates and one crate is kept",),
        },
        ("How many {things} does the shop have now?", "How many {things} are left?"),
    ),
    Family(
        ("liters", "buckets", "gallons"),
        (
            "A tank contains {n} {things} of water.",
            "{name} pours {n} {things} of water into a pool.",
            "A pond holds {n} {things}.",
        ),
        {
            "add": ("rain adds {n} {things}", "a hose brings in {n} {things}"),
            "take": ("{n} {things} leak out", "the sun dries up {n} {things}", "{friend} uses {n} {things} for the roses"),
            "add groups": ("a pump adds {b} {things} an hour for {a} hours", "{a} trucks each bring {b} {things}"),
            "take groups": ("{a} cows drink {b} {things} each", "for {a} days {b} {things} are drained every day"),
            "times": ("after a storm it holds {k} times as much",),
            "share": ("the water is spread over {k} equal basins and one basin is used",),
        },
        ("How many {things} of water are there now?", "How many {things} does it hold at the end?"),
    ),
    Family(
        ("points",),
        ("{name} scores {n} {things} in the first round.", "{name} begins a game with {n} {things}."),
        {
            "add": ("{she} gains {n} {things} with a bonus card", "a good throw is worth {n} {things}"),
            "take": ("a mistake costs {her} {n} {things}", "{she} pays {n} {things} for a hint"),
            "add groups": ("{she} hits {a} targets for {b} {things} each", "{she} solves {a} riddles worth {b} {things} each"),
            "take groups": (
                "{she} breaks {a} rules and loses {b} {things} for each",
                "{a} traps take {b} {things} each from {her}",
            ),
            "times": ("a star card makes the score {k} times as large",),
            "share": ("a storm card divides the score by {k}",),
            "less": ("{friend} is {n} {things} behind {name}",),
            "more": ("{friend} is {n} {things} ahead of {name}",),
        },
        ("How many {things} does {name} have at the end?", "What is the final score of {name}?"),
    ),
    Family(
        ("roses", "tulips", "trees", "seedlings", "bushes"),
        ("A garden has {n} {things}.", "{name} plants {n} {things} in spring.", "{name} looks after {n} {things}."),
        {
            "add": ("{n} new {things} are planted", "a neighbor donates {n} {things}"),
            "take": ("frost kills {n} of them", "{n} {things} are dug out", "goats eat {n} {things}"),
            "add groups": ("{a} rows of {b} {things} are put in", "{a} helpers plant {b} {things} each"),
            "take groups": ("{a} families take home {b} {things} each", "{a} beds with {b} {things} each are cleared"),
            "times": ("by summer there are {k} times as many",),
            "share": ("the plot is cut into {k} equal parts and one part is kept",),
        },
        ("How many {things} grow there now?", "How many {things} are there in the end?"),
    ),
)


def word_problems(split: Split, count: int, seed: int) -> list[Problem]:
    """Return `count` different problems of a split; the same arguments give the same problems anywhere."""
    rng = random.Random(f"exptilt word problems {split} {seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = _compose(rng)
        if problem is not None and split_of(problem.question) == split:
            found.setdefault(problem.question, problem)
    return list(found.values())


def split_of(question: str) -> Split:
    """Tell the side a question belongs to, from a stable hash of its text."""
    digest = blake2b(question.encode("utf-8"), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"


def _compose(rng: random.Random) -> Problem | None:
    """Draw one story, or nothing when its numbers run out of range before it is long enough."""
    family = rng.choice(FAMILIES)
    (name, she, her), (friend, _, _) = rng.sample(PEOPLE, 2)
    words = {"name": name, "she": she, "her": her, "friend": friend, "things": rng.choice(family.things)}
    total = rng.randint(*START)
    sentences = [_sentence(rng.choice(family.openings), words | {"n": total})]
    lines: list[str] = []
    question = rng.choice(family.questions)
    target = rng.choices(STEPS, STEP_WEIGHTS)[0]
    kind = ""
    while len(lines) < target:
        kind = _next_kind(rng, family, kind, target - len(lines))
        drawn = _apply(rng, kind, total)
        if drawn is None:
            return None
        total, numbers, equations = drawn
        lines += equations
        link = "" if kind in ("less", "more") else rng.choice(LINKS)
        sentences.append(_sentence(link + rng.choice(family.clauses[kind]) + ".", words | numbers))
        if kind in ("less", "more"):
            question = "How many {things} do {name} and {friend} have together?"
    text = " ".join([*sentences, question.format(**words)])
    return Problem(text, "\n".join([*lines, f"#### {total}"]), str(total))


def _sentence(template: str, values: dict) -> str:
    """Fill a template and start it with a capital letter."""
    text = template.format(**values)
    return text[0].upper() + text[1:]


def _next_kind(rng: random.Random, family: Family, previous: str, room: int) -> str:
    """Choose what the next clause does, so that its equations fit into the room left.

    Comparisons end a story, so they are offered only when exactly two equations are missing.
    """
    kinds = ["add", "take"] if room == 1 else ["add", "take", "add groups", "take groups", "add groups", "take groups"]
    if previous not in ("times", "share"):
        kinds += ["times", "share"] if room == 1 or previous else ["times"]
    if room == 2 and "less" in family.clauses:
        kinds += ["less", "more"]
    return rng.choice(kinds)


def _apply(rng: random.Random, kind: str, total: int) -> tuple[int, dict[str, int], list[str]] | None:
    """Draw a clause's numbers: the new total, the template's values and the equations, or None if impossible."""
    numbers: dict[str, int] = {}
    lines: list[str] = []
    if kind in ("times", "share"):
        numbers["k"] = amount = rng.randint(*FACTOR)
    elif kind.endswith("groups"):
        numbers["a"], numbers["b"] = rng.randint(*GROUPS), rng.randint(*GROUP_SIZE)
        amount = numbers["a"] * numbers["b"]
        lines.append(f"{numbers['a']} * {numbers['b']} = {amount}")
    else:
        numbers["n"] = amount = rng.randint(*CHANGE)
    if kind == "share" and total % amount:
        return None
    sign = {"add": "+", "more": "+", "take": "-", "less": "-", "times": "*", "share": "/"}[kind.split()[0]]
    result = {"+": total + amount, "-": total - amount, "*": total * amount, "/": total // amount}[sign]
    lines.append(f"{total} {sign} {amount} = {result}")
    if kind in ("less", "more"):
        lines.append(f"{total} + {result} = {total + result}")
        result = total + result
    return (result, numbers, lines) if 0 < result <= LIMIT and (kind != "less" or amount < total) else None
