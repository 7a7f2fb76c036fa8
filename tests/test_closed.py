"""The one explanation of what is wrong with a file: place, fault, value found, and the keys allowed there."""

import pytest
from pydantic import Field, ValidationError, model_validator

from keepstate.closed import Closed, explain
from keepstate.vocabulary import ADAPTER_NAME


class Inner(Closed):
    class_: str = Field(default="", alias="class")
    size: int = Field(default=1, ge=1)


class Outer(Closed):
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default={})
    numbers: dict[str, int] = Field(default={})
    count: int = 0

    @model_validator(mode="after")
    def _is_even(self) -> "Outer":
        if self.count % 2:
            raise ValueError("count is odd")
        return self


@pytest.mark.parametrize(
    ("value", "message", "allowed"),
    [
        ({"inner": {"siz": 2}}, "unknown key 'inner.siz'", "did you mean size? allowed keys: class, size"),
        ({"several": [{}, {"zz": 2}]}, "unknown key 'several.1.zz'", "allowed keys: class, size"),
        ({"named": {"count": {"klass": 2}}}, "unknown key 'named.count.klass'", "did you mean class?"),
        ({"inner": {"size": 0, "x": 1}}, "inner.size: Input should be", "allowed keys: class, size"),
        ({"inner": {"size": 0, "x": 1}}, "(found 0) (and 1 more)", ""),
        ({"inner": 3}, "inner: a mapping of keys is needed (found 3)", "allowed keys: class, size"),
        ({"count": "0x"}, "(found '0x')", "allowed keys: inner, several, named, numbers, count"),
        ({"count": 3}, "count is odd", "allowed keys: inner"),
        ([], "a mapping of keys is needed (found [])", "allowed keys: inner"),
    ],
)
def test_place_fault_value_and_keys_are_told(value: object, message: str, allowed: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    told = explain(caught.value, Outer)
    assert message in told.message
    assert allowed in told.allowed


def test_keys_that_are_not_ours_are_not_guessed() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"numbers": {"size": "x"}})
    assert explain(caught.value, Outer).allowed == ""


def test_a_long_value_is_cut_and_stays_on_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"count": "x\n" * 50_000})
    message = explain(caught.value, Outer).message
    assert len(message) < 200
    assert "\n" not in message


class Named(Closed):
    name: str = Field(pattern=ADAPTER_NAME)


def test_what_a_name_may_be_is_told_in_words() -> None:
    with pytest.raises(ValidationError) as caught:
        Named.model_validate({"name": "a,b"})
    wanted = "name: allowed are up to 100 letters, digits and ._/:@+-, the first a letter or digit (found 'a,b')"
    assert explain(caught.value, Named).message == wanted
