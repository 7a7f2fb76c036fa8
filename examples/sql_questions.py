"""Questions over a small SQLite database: a family of tasks in one file, with two tools.

    keepstate tasks check sql_questions.py
    keepstate tasks generate --family sql_questions.py --count 60 --out tasks/train
    keepstate traces collect --family sql_questions.py --tasks tasks/train

The database is made anew from the task for every episode, and the agent's SQL may only read it: tools run in
keepstate's own process, so what an agent sends must be able to do no harm.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Generator
from typing import Any

from keepstate.tasks import Dice, Environment, Family, Instance, Move, Step, Task, ToolError, Verdict, tool

CITIES = ("Bern", "Lyon", "Oslo", "Riga", "Turin")
ITEMS = ("chair", "desk", "lamp", "shelf", "sofa", "stool")
SCHEMA = "customers(id, city), orders(id, customer_id, item, amount)"
MOST_ROWS = 50
MOST_STEPS = 200
"""Thousands of steps of SQLite's machine that a query may take: more than any that these tables need."""
MOST_CHARS = 2_000
"""Of a value."""
READ = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

JOINED = "orders JOIN customers ON customers.id = customer_id"
QUESTIONS = (
    ("How many orders came from {city}?", "SELECT count(*) FROM {joined} WHERE city = '{city}'"),
    ("What do all orders of a {item} amount to?", "SELECT coalesce(sum(amount), 0) FROM orders WHERE item = '{item}'"),
    (
        "What is the greatest amount of one order from {city}?",
        "SELECT coalesce(max(amount), 0) FROM {joined} WHERE city = '{city}'",
    ),
    (
        "How many customers from {city} ordered a {item}?",
        "SELECT count(DISTINCT customer_id) FROM {joined} WHERE city = '{city}' AND item = '{item}'",
    ),
)


def database(rows: dict[str, Any]) -> sqlite3.Connection:
    """A database of these rows."""
    made = sqlite3.connect(":memory:")
    made.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, city TEXT)")
    made.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, item TEXT, amount INTEGER)")
    made.executemany("INSERT INTO customers VALUES (?, ?)", rows["customers"])
    made.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows["orders"])
    return made


class Desk(Environment):
    """One question being answered."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.goal = f"{task.public['question']}\nTables: {SCHEMA}.\nQuery the database, then call answer(number)."
        self.queries, self.right = 0, False
        self.made = database(task.private)
        self.made.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in READ else sqlite3.SQLITE_DENY)
        self.made.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_CHARS)

    @tool
    def query(self, sql: str) -> list[list[int | float | str | None]]:
        """Rows of one SELECT statement, at most 50."""
        self.queries += 1
        ticks = iter(range(MOST_STEPS))
        self.made.set_progress_handler(lambda: next(ticks, None) is None, 1_000)
        try:
            rows = self.made.execute(sql).fetchmany(MOST_ROWS)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            raise ToolError(f"{type(error).__name__}: {error}") from None
        return [[_plain(value) for value in row] for row in rows]

    @tool
    def answer(self, number: int) -> None:
        """Answer the question, and end the task."""
        self.right = number == self.task.private["answer"]
        self.finished = True

    def verdict(self) -> Verdict:
        """Right or wrong."""
        return Verdict(is_solved=self.right, score=float(self.right), metrics={"queries": self.queries})


def _plain(value: int | float | str | bytes | None) -> int | float | str | None:
    """A value as JSON has it: no bytes, and no infinity."""
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


class SqlQuestions(Family):
    """Samples a database and a question to it."""

    difficulties = {"mini": {"customers": 6, "orders": 15}, "easy": {"customers": 40, "orders": 300}}
    environment = Desk
    policies = {"blind": "answers 0 without a query", "oracle": "knows the answer"}

    def sample(self, dice: Dice, parameters: Any, rules: str | None) -> Instance:
        """Draw customers, orders and a question."""
        customers = [[number, dice.choice(CITIES)] for number in range(1, parameters["customers"] + 1)]
        orders = [
            [number, dice.randint(1, len(customers)), dice.choice(ITEMS), dice.randint(5, 500)]
            for number in range(1, parameters["orders"] + 1)
        ]
        words, sql = dice.choice(QUESTIONS)
        names = {"city": dice.choice(CITIES), "item": dice.choice(ITEMS), "joined": JOINED}
        rows = {"customers": customers, "orders": orders}
        ((answer,),) = database(rows).execute(sql.format(**names))
        return Instance(
            public={"question": words.format(**names)},
            private={**rows, "answer": answer, "sql": sql.format(**names)},
            reference={"answer": answer},
        )

    def gold(self, task: Task) -> list[Move]:
        """Answer at once."""
        return [Move("answer", {"number": task.private["answer"]})]

    def reference_scores(self, task: Task) -> dict[str, float]:
        """Score of each policy."""
        return {"blind": self.score(task, [Move("answer", {"number": 0})]), "oracle": 1.0}

    def plan(self, task: Task, dice: Dice) -> Generator[Step, list[Any], None]:
        """Look at a few rows, ask, answer."""
        looks = [Move("query", {"sql": f"SELECT * FROM {name} LIMIT 2"}) for name in ("customers", "orders")]
        yield Step("I look at the tables first.", looks)
        (rows,) = yield Step("Now the question as SQL.", [Move("query", {"sql": task.private["sql"]})])
        yield Step(f"The answer is {rows[0][0]}.", [Move("answer", {"number": rows[0][0]})], "answer(seen[-1][0][0])")
