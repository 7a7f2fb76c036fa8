"""The worked examples: they keep their promises, and what an agent sends does no harm."""

from pathlib import Path

import pytest

from keepstate.tasks import Environment, ToolError, environment_for, make_tasks, use_family
from keepstate.tasks.checking import check_family

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def desk(no_family_named: None) -> Environment:
    family = use_family(str(EXAMPLES / "sql_questions.py"))
    assert "the plan plays 6 tasks to their end, mean score 1.000" in list(check_family(family, 3))
    return environment_for(next(make_tasks(family.name, "mini", 1, 0)))


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders",
        "DROP TABLE orders",
        "ATTACH '/tmp/x' AS x",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('x')",
        "SELECT zeroblob(1000000000)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT 1; SELECT 2",
        "no sql",
        "\ud800",
        "a\0b",
    ],
)
def test_sql_only_reads(desk: Environment, sql: str) -> None:
    with pytest.raises(ToolError):
        desk.call("query", {"sql": sql})
    assert desk.call("query", {"sql": "SELECT count(*), 9e999 FROM orders"}) == [[15, "inf"]]
