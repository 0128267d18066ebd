"""JSON Merge Patch and JSON Patch: the examples of RFC 7396 and RFC 6902, and what they leave open."""

from typing import Any

import pytest

from coordinator.state.json_patch import MAX_COPIED_VALUES, MAX_OPERATIONS, MISSING, PatchError, merged, operations, patched
from coordinator.state.json_values import decoded, encoded


def text(value: bytes | str) -> Any:
    return decoded(value)


# RFC 7396, Appendix A
@pytest.mark.parametrize(
    "original,patch,result",
    [
        ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
        ('{"a":"b"}', '{"a":null}', "{}"),
        ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
        ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
        ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
        ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
        ('["a","b"]', '["c","d"]', '["c","d"]'),
        ('{"a":"b"}', '["c"]', '["c"]'),
        ('{"a":"foo"}', "null", "null"),
        ('{"a":"foo"}', '"bar"', '"bar"'),
        ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
        ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
        ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
    ],
)
def test_the_examples_of_rfc_7396(original: str, patch: str, result: str) -> None:
    assert encoded(merged(text(original), text(patch))).decode() == result


def test_a_merge_leaves_the_patch_as_it_is() -> None:
    patch = text('{"a":{"b":[1],"c":null}}')
    once = merged(MISSING, patch)
    once["a"]["d"] = 2
    assert patch == {"a": {"b": [1], "c": None}}
    assert merged(MISSING, patch) == {"a": {"b": [1]}}


# RFC 6902, Appendix A
@pytest.mark.parametrize(
    "document,patch,result",
    [
        ('{"foo":"bar"}', '[{"op":"add","path":"/baz","value":"qux"}]', '{"foo":"bar","baz":"qux"}'),  # A.1
        ('{"foo":["bar","baz"]}', '[{"op":"add","path":"/foo/1","value":"qux"}]', '{"foo":["bar","qux","baz"]}'),  # A.2
        ('{"baz":"qux","foo":"bar"}', '[{"op":"remove","path":"/baz"}]', '{"foo":"bar"}'),  # A.3
        ('{"foo":["bar","qux","baz"]}', '[{"op":"remove","path":"/foo/1"}]', '{"foo":["bar","baz"]}'),  # A.4
        ('{"baz":"qux","foo":"bar"}', '[{"op":"replace","path":"/baz","value":"boo"}]', '{"baz":"boo","foo":"bar"}'),  # A.5
        (
            '{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}',  # A.6
            '[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]',
            '{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}',
        ),
        (
            '{"foo":["all","grass","cows","eat"]}',  # A.7
            '[{"op":"move","from":"/foo/1","path":"/foo/3"}]',
            '{"foo":["all","cows","eat","grass"]}',
        ),
        (
            '{"baz":"qux","foo":["a",2,"c"]}',  # A.8
            '[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]',
            '{"baz":"qux","foo":["a",2,"c"]}',
        ),
        ('{"foo":"bar"}', '[{"op":"add","path":"/child","value":{"grandchild":{}}}]', '{"foo":"bar","child":{"grandchild":{}}}'),  # A.10
        ('{"foo":"bar"}', '[{"op":"add","path":"/baz","value":"qux","xyz":123}]', '{"foo":"bar","baz":"qux"}'),  # A.11
        ('{"/":9,"~1":10}', '[{"op":"test","path":"/~01","value":10}]', '{"/":9,"~1":10}'),  # A.14
        ('{"foo":["bar"]}', '[{"op":"add","path":"/foo/-","value":["abc","def"]}]', '{"foo":["bar",["abc","def"]]}'),  # A.16
    ],
)
def test_the_examples_of_rfc_6902(document: str, patch: str, result: str) -> None:
    assert encoded(patched(text(document), operations(text(patch)))).decode() == result


@pytest.mark.parametrize(
    "document,patch",
    [
        ('{"baz":"qux"}', '[{"op":"test","path":"/baz","value":"bar"}]'),  # A.9
        ('{"foo":"bar"}', '[{"op":"add","path":"/baz/bat","value":"qux"}]'),  # A.12
        ('{"/":9,"~1":10}', '[{"op":"test","path":"/~01","value":"10"}]'),  # A.15
    ],
)
def test_the_errors_of_rfc_6902(document: str, patch: str) -> None:
    with pytest.raises(PatchError):
        patched(text(document), operations(text(patch)))


# RFC 6901, section 5
@pytest.mark.parametrize(
    "pointer,value",
    [
        ("", None),
        ("/foo", '["bar","baz"]'),
        ("/foo/0", '"bar"'),
        ("/", "0"),
        ("/a~1b", "1"),
        ("/c%d", "2"),
        ("/e^f", "3"),
        ("/g|h", "4"),
        ("/i\\j", "5"),
        ('/k"l', "6"),
        ("/ ", "7"),
        ("/m~0n", "8"),
    ],
)
def test_the_pointers_of_rfc_6901(pointer: str, value: str | None) -> None:
    document = '{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\\\j":5,"k\\"l":6," ":7,"m~n":8}'
    wanted = text(document) if value is None else text(value)
    patched(text(document), operations([{"op": "test", "path": pointer, "value": wanted}]))


@pytest.mark.parametrize(
    "document,patch,index,path,says",
    [
        ("{}", '[{"op":"add","path":"/a","value":1},{"op":"remove","path":"/b"}]', 1, "/b", "no '/b'"),
        ('{"a":[1]}', '[{"op":"add","path":"/a/2","value":1}]', 0, "/a/2", "no place 2"),
        ('{"a":[1]}', '[{"op":"replace","path":"/a/1","value":1}]', 0, "/a/1", "no place 1"),
        ('{"a":[1]}', '[{"op":"remove","path":"/a/-"}]', 0, "/a/-", "no place in a list"),
        ('{"a":[1]}', '[{"op":"remove","path":"/a/00"}]', 0, "/a/00", "no place in a list"),
        ('{"a":[1]}', '[{"op":"remove","path":"/a/9999999999999"}]', 0, "/a/9999999999999", "no place"),
        ('{"a":[1]}', '[{"op":"add","path":"/a/-1","value":1}]', 0, "/a/-1", "no place in a list"),
        ('{"a":1}', '[{"op":"add","path":"/a/b","value":1}]', 0, "/a/b", "neither"),
        ("{}", '[{"op":"copy","from":"/b","path":"/a"}]', 0, "/a", "no '/b'"),
        ('{"a":1}', '[{"op":"test","path":"/a","value":true}]', 0, "/a", "another"),
        ('{"a":[]}', '[{"op":"test","path":"/a","value":{}}]', 0, "/a", "another"),
    ],
)
def test_an_operation_that_does_not_apply_says_where(document: str, patch: str, index: int, path: str, says: str) -> None:
    with pytest.raises(PatchError, match=says) as refused:
        patched(text(document), operations(text(patch)))
    assert (refused.value.index, refused.value.path) == (index, path)


@pytest.mark.parametrize(
    "patch,says",
    [
        ("{}", "list"),
        ("[1]", "no object"),
        ('[{"op":"add","value":1}]', "no `path`"),
        ('[{"op":"add","path":"/a"}]', "no `value`"),
        ('[{"op":"copy","path":"/a"}]', "no `from`"),
        ('[{"path":"/a"}]', "its `op`"),
        ('[{"op":"spam","path":"/a"}]', "its `op`"),
        ('[{"op":"remove","path":"a"}]', "begin with /"),
        ('[{"op":"remove","path":"/~2"}]', "followed by neither"),
        ('[{"op":"remove","path":"/~"}]', "followed by neither"),
        ('[{"op":"move","from":"/a","path":"/a/b"}]', "into itself"),
    ],
)
def test_a_wrong_operation_is_refused_before_any_value_is_seen(patch: str, says: str) -> None:
    with pytest.raises(PatchError, match=says):
        operations(text(patch))


def test_a_move_to_where_it_is_changes_nothing_but_must_be_there() -> None:
    same = operations(text('[{"op":"move","from":"/a","path":"/a"}]'))
    assert patched({"a": [1]}, same) == {"a": [1]}
    with pytest.raises(PatchError):
        patched({}, same)


def test_numbers_are_equal_as_numbers() -> None:
    patched({"a": 1}, operations(text('[{"op":"test","path":"/a","value":1.0},{"op":"test","path":"/a","value":10e-1}]')))


def test_a_key_that_is_not_there_can_only_be_added_as_a_whole() -> None:
    assert patched(MISSING, operations(text('[{"op":"add","path":"","value":{"a":1}},{"op":"add","path":"/b","value":2}]'))) == {
        "a": 1,
        "b": 2,
    }
    for op in ('{"op":"add","path":"/a","value":1}', '{"op":"test","path":"","value":null}', '{"op":"remove","path":""}'):
        with pytest.raises(PatchError, match="isn't there"):
            patched(MISSING, operations(text(f"[{op}]")))


def test_the_values_of_a_patch_stay_as_they_are() -> None:
    patch = operations(
        text('[{"op":"add","path":"/a","value":{"b":[]}},{"op":"copy","from":"/a","path":"/c"},{"op":"add","path":"/a/b/0","value":1}]')
    )
    for _ in range(2):
        assert patched({}, patch) == {"a": {"b": [1]}, "c": {"b": []}}


def test_copies_cannot_double_for_ever() -> None:
    bomb = operations(
        [{"op": "add", "path": "", "value": {"a": [0] * 100}}] + [{"op": "copy", "from": "", "path": f"/{n}"} for n in range(60)]
    )
    with pytest.raises(PatchError, match=str(MAX_COPIED_VALUES)):
        patched({}, bomb)


def test_operations_are_bounded() -> None:
    operation = {"op": "add", "path": "/a", "value": 1}
    assert len(operations([operation] * MAX_OPERATIONS)) == MAX_OPERATIONS
    with pytest.raises(PatchError, match="at most"):
        operations([operation] * (MAX_OPERATIONS + 1))
