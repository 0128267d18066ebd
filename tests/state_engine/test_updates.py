"""What updates make of values: exact numbers, lists as sets, and errors that say what is wrong."""

import pytest

from coordinator.errors import InvalidRequest
from coordinator.state.json_values import NotJson, decoded, encoded, identity
from coordinator.state.updates import FIELDS, Add, Append, Change, JsonPatch, MergePatch, SetAdd, SetRemove, step_of, value_after


def after(value: bytes | None, change: Change) -> bytes:
    return value_after(value, step_of(change), FIELDS[type(change)])


@pytest.mark.parametrize(
    "value,number,result",
    [
        (None, "5", "5"),
        (None, "-0.5", "-0.5"),
        ("1", "2", "3"),
        ("9007199254740993", "1", "9007199254740994"),  # above 2^53
        ("18446744073709551615", "1", "18446744073709551616"),  # above 2^64
        ("1" + "0" * 300, "1", "1" + "0" * 299 + "1"),
        ("9007199254740993", "-9007199254740993", "0"),
        ("0.1", "0.2", "0.3"),
        ("1", "0.5", "1.5"),
        ("1.50", "-0.5", "1.00"),
        ("1e3", "1", "1001"),
        ("1e-20", "1", "1.00000000000000000001"),
        ("12345678901234567890.5", "1", "12345678901234567891.5"),
    ],
)
def test_sums_are_exact(value: str | None, number: str, result: str) -> None:
    assert after(value.encode() if value else None, Add(number)) == result.encode()


@pytest.mark.parametrize("value", ['"1"', "true", "null", "[]", "{}", "one", "", "1 2", "NaN", "0x1"])
def test_nothing_is_added_to_what_is_no_number(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        after(value.encode(), Add("1"))
    assert (refused.value.field, refused.value.reason) == ("add", "PATCH_FAILED")


@pytest.mark.parametrize(
    "number", ["", "one", "true", '"1"', "[1]", "NaN", "Infinity", "1 2", "01", "+1", "1.", "null", "1e99999999999999999999"]
)
def test_what_is_no_number_is_not_added(number: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        step_of(Add(number))
    assert refused.value.field == "add"


def test_a_sum_with_more_digits_than_anybody_needs_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="digits"):
        after(b"1e999999999", Add("1"))
    with pytest.raises(InvalidRequest, match="digits"):
        after(b"9" * 4300, Add("1"))
    with pytest.raises(InvalidRequest, match="digits"):
        step_of(Add("9" * 5000))


@pytest.mark.parametrize(
    "value,change,result",
    [
        (None, Append((b"1", b'{"a":[]}')), b'[1,{"a":[]}]'),
        (b"[1]", Append((b"1",)), b"[1,1]"),
        (None, SetAdd((b"1", b"1", b"1.0", b"true")), b"[1,true]"),
        (b'[1,"a",{"x":1,"y":[]}]', SetAdd((b'"a"', b'{"y":[],"x":1.0}', b'{"y":{},"x":1}')), b'[1,"a",{"x":1,"y":[]},{"y":{},"x":1}]'),
        (b"[1,true,1.0,null]", SetRemove((b"1", b"null", b"7")), b"[true]"),
        (None, SetRemove((b"1",)), b"[]"),
        (None, MergePatch(b'{"a":null}'), b"{}"),
        (
            b'{"a":{},"b":[],"n":12345678901234567890,"d":1.10}',
            MergePatch(b'{"c":{}}'),
            b'{"a":{},"b":[],"n":12345678901234567890,"d":1.10,"c":{}}',
        ),
        (None, JsonPatch(b'[{"op":"add","path":"","value":[]}]'), b"[]"),
        (b"[]", JsonPatch(b"[]"), b"[]"),
    ],
)
def test_changes(value: bytes | None, change: Change, result: bytes) -> None:
    assert after(value, change) == result


@pytest.mark.parametrize(
    "change,field",
    [
        (MergePatch(b"{"), "merge_patch"),
        (JsonPatch(b"{"), "json_patch"),
        (Append((b"1", b"x")), "append.items[1]"),
        (SetAdd((b"",)), "set_add.items[0]"),
        (SetRemove((b"\xff",)), "set_remove.items[0]"),
        (SetRemove((b'"\xff"',)), "set_remove.items[0]"),
        (MergePatch(b'{"a":' * 5000 + b"1" + b"}" * 5000), "merge_patch"),
    ],
)
def test_a_change_that_is_no_json_names_the_field(change: Change, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        step_of(change)
    assert refused.value.field == field


@pytest.mark.parametrize("change", [Append((b"1",)), SetAdd((b"1",)), SetRemove((b"1",))])
def test_a_list_is_needed(change: Change) -> None:
    with pytest.raises(InvalidRequest, match="no list") as refused:
        after(b"{}", change)
    assert refused.value.reason == "PATCH_FAILED"


def test_a_patch_that_does_not_apply_says_which_operation_and_where() -> None:
    with pytest.raises(InvalidRequest, match="/a/b") as refused:
        after(b'{"a":1}', JsonPatch(b'[{"op":"test","path":"/a","value":1},{"op":"add","path":"/a/b","value":1}]'))
    assert (refused.value.field, refused.value.reason) == ("json_patch", "PATCH_FAILED")
    assert refused.value.metadata == {"index": "1", "path": "/a/b"}


def test_a_patch_may_not_take_the_whole_away() -> None:
    with pytest.raises(InvalidRequest, match="Delete"):
        after(b"1", JsonPatch(b'[{"op":"remove","path":""}]'))


def test_a_value_may_not_grow_over_its_limit() -> None:
    half = b'"%s"' % (b"x" * 600_000)
    with pytest.raises(InvalidRequest) as refused:
        after(b"[%s]" % half, Append((half,)))
    assert refused.value.reason == "VALUE_TOO_LARGE"


def test_nesting_is_bounded() -> None:
    deep = b"[" * 400 + b"]" * 400
    value = after(b"[]", Append((deep,)))
    assert after(value, SetAdd((deep,))) == value[:-1] + b"]"
    with pytest.raises(InvalidRequest):
        after(b'{"a":' * 5000 + b"1" + b"}" * 5000, MergePatch(b'{"b":1}'))


def test_what_is_nested_too_deeply_has_no_identity() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(NotJson):
        identity(deep)


def test_json_keeps_what_was_written() -> None:
    for text in (b"[]", b"{}", b"12345678901234567890123", b"1.10", b"-0.0", b'"\xc3\xa9\\n"', b"[[],{}]", b"null"):
        assert encoded(decoded(text)) == text
    for text in (b"NaN", b"[1,]", b"'a'", b"{1:2}", b"", b'"\\ud800"', b"9" * 5000):
        with pytest.raises(NotJson):
            decoded(text)
