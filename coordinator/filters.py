r"""The filter of ListTasks and WatchTasks: parsed once, then matched against many tasks. It knows a task's facts only, no protos.

The language is a subset of AIP-160 (https://google.aip.dev/160), with its precedence: OR binds tighter than AND.

    filter     = [ factors ]
    factors    = term { "AND" term }
    term       = factor { "OR" factor }
    factor     = [ "NOT" ] ( "(" factors ")" | comparison )
    comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
    value      = word | string            quotes are single or double; \" \' \\ and \* stand for the character itself

A `*` that ends a value matches any end; everywhere else it is a character like any other.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple, NoReturn, TypeVar

from coordinator.core.model import Priority, TaskState
from coordinator.errors import InvalidRequest

MAX_FILTER_BYTES = 4096
MAX_DEPTH = 32  # parentheses within parentheses


class TaskFacts(NamedTuple):
    """What a filter may ask about a task."""

    state: TaskState
    task_type: str
    priority: int
    agent: str  # of the present or the last attempt; empty when there was none
    task_id: str
    parent_task_id: Callable[[], str]  # called only by filters that ask for it: reading it means parsing the request


class Filter:
    """A parsed filter. `text` is what it was parsed from.

    Args:
        text: the source.
        predicate: what it means.
    """

    __slots__ = ("_predicate", "text")

    def __init__(self, *, text: str, predicate: Callable[[TaskFacts], bool]) -> None:
        self.text = text
        self._predicate = predicate

    def matches(self, facts: TaskFacts) -> bool:
        """Whether the filter lets a task with these facts through."""
        return self._predicate(facts)


def parse(text: str) -> Filter:
    """Parses a filter; an empty or blank one matches every task.

    Args:
        text: at most 4 KiB of UTF-8, parentheses at most 32 deep.

    Raises:
        InvalidRequest: on field "filter", with the position (characters, from 1) and what was expected there.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_FILTER_BYTES:
        raise InvalidRequest(f"filter has {size} bytes: at most {MAX_FILTER_BYTES} are allowed", field="filter")
    return Filter(text=text, predicate=_Parser(text).parse())


Predicate = Callable[[TaskFacts], bool]
Value = TypeVar("Value")


class _Field(Enum):
    STATE = "state"
    TASK_TYPE = "task_type"
    PRIORITY = "priority"
    AGENT = "agent"
    TASK_ID = "task_id"
    PARENT_TASK_ID = "parent_task_id"


class _Kind(Enum):
    """Kinds of tokens."""

    WORD = auto()
    STRING = auto()
    OPERATOR = auto()
    OPEN = auto()
    CLOSE = auto()
    END = auto()


class _Token(NamedTuple):
    kind: _Kind
    text: str  # of a word or string: its value, without the star that ends it
    position: int  # of its first character, from 0
    source: str  # as it was written
    open_ended: bool = False  # a star ends it


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<OPERATOR> != | <= | >= | = | < | > )
      | (?P<OPEN> \( )
      | (?P<CLOSE> \) )
      | (?P<STRING> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
      | (?P<WORD> [^\s()"'=!<>:,\\]+ )
    )""",
    re.VERBOSE | re.DOTALL,
)
_UNIT = re.compile(r"\\.|[^\\]", re.DOTALL)  # of a string: an escape, or a character
_KEYWORDS = ("AND", "OR", "NOT")
_FIELDS = ", ".join(field.value for field in _Field)
_STATES = {prefix + state.name: state for state in TaskState for prefix in ("", "TASK_STATE_")}
_PRIORITIES = {name: priority for priority in Priority for name in (priority.name, f"PRIORITY_{priority.name}", str(priority.value))}
_SHOWN_CHARS = 40  # of a wrong token in a message


def _fail(position: int, message: str) -> NoReturn:
    raise InvalidRequest(
        f"filter is wrong at character {position + 1}: {message}", field="filter", metadata={"position": str(position + 1)}
    )


def _shown(token: _Token) -> str:
    if token.kind is _Kind.END:
        return "the end"
    return token.source if token.source in _KEYWORDS else repr(token.source[:_SHOWN_CHARS])


def _expected(what: str, found: _Token) -> NoReturn:
    if found.source.upper() in _KEYWORDS and found.source not in _KEYWORDS and found.kind is _Kind.WORD:
        what += f" (write {found.source.upper()} in capitals)"
    _fail(found.position, f"expected {what}, found {_shown(found)}")


class _Parser:
    """Recursive descent, one token ahead; what it builds is a predicate."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._offset = 0
        self._depth = 0
        self._next = self._scan()

    def parse(self) -> Predicate:
        if self._at(_Kind.END):
            return lambda _: True
        predicate = self._factors()
        if not self._at(_Kind.END):
            _expected("AND, OR or the end", self._next)
        return predicate

    def _factors(self) -> Predicate:
        terms = [self._term()]
        while self._take_keyword("AND"):
            terms.append(self._term())
        return terms[0] if len(terms) == 1 else lambda facts: all(term(facts) for term in terms)

    def _term(self) -> Predicate:
        factors = [self._factor()]
        while self._take_keyword("OR"):
            factors.append(self._factor())
        return factors[0] if len(factors) == 1 else lambda facts: any(factor(facts) for factor in factors)

    def _factor(self) -> Predicate:
        if self._take_keyword("NOT"):
            inner = self._group_or_comparison()
            return lambda facts: not inner(facts)
        return self._group_or_comparison()

    def _group_or_comparison(self) -> Predicate:
        if not self._at(_Kind.OPEN):
            return self._comparison()
        if self._depth == MAX_DEPTH:
            _fail(self._next.position, f"parentheses are nested more than {MAX_DEPTH} deep")
        self._depth += 1
        self._take()
        predicate = self._factors()
        if not self._at(_Kind.CLOSE):
            _expected("AND, OR or )", self._next)
        self._take()
        self._depth -= 1
        return predicate

    def _comparison(self) -> Predicate:
        field = self._field()
        if not self._at(_Kind.OPERATOR):
            _expected(f"one of {' '.join(_COMPARE)} after {field.value}", self._next)
        sign = self._take()
        if not self._at(_Kind.WORD, _Kind.STRING) or self._next.source in _KEYWORDS:
            _expected(f"a value after {sign.text}", self._next)
        return _compared(field, sign, self._take())

    def _field(self) -> _Field:
        name = self._next
        if name.kind is not _Kind.WORD or name.source in _KEYWORDS:
            _expected(f"NOT, ( or a field ({_FIELDS})", name)
        try:
            field = _Field(name.source)
        except ValueError:
            near = difflib.get_close_matches(name.source.lower(), [field.value for field in _Field], n=1)
            suggestion = f"did you mean {near[0]}? " if near else ""
            _fail(name.position, f"no field is called {_shown(name)}: {suggestion}The fields are {_FIELDS}")
        self._take()
        return field

    def _at(self, *kinds: _Kind) -> bool:
        return self._next.kind in kinds

    def _take(self) -> _Token:
        token = self._next
        self._next = self._scan()
        return token

    def _take_keyword(self, keyword: str) -> bool:
        if not self._at(_Kind.WORD) or self._next.source != keyword:
            return False
        self._take()
        return True

    def _scan(self) -> _Token:
        match = _TOKEN.match(self._text, self._offset)
        if match is None:
            return self._end()
        kind = _Kind[str(match.lastgroup)]
        source = match[match.lastgroup or 0]
        position = match.start(match.lastgroup or 0)
        self._offset = match.end()
        if kind is _Kind.STRING:
            return _string(source, position)
        open_ended = kind is _Kind.WORD and source.endswith("*")
        return _Token(kind, source.removesuffix("*") if open_ended else source, position, source, open_ended)

    def _end(self) -> _Token:
        rest = self._text[self._offset :]
        position = self._offset + len(rest) - len(rest.lstrip())
        match rest.lstrip()[:1]:
            case "":
                return _Token(_Kind.END, "", position, "")
            case '"' | "'" as quote:
                _fail(position, f"the string that begins here has no closing {quote}")
            case "!":
                _fail(position, "expected != or NOT, found '!'")
            case ":":
                _fail(position, "the operator ':' isn't supported: use = (a value may end with *)")
            case character:
                _fail(position, f"{character!r} can't stand here: put quotes around values that hold such characters")


def _string(source: str, position: int) -> _Token:
    units = _UNIT.findall(source[1:-1])
    offset = position + 1
    for unit in units:
        if unit[0] == "\\" and unit[1] not in "\"'\\*":
            _fail(offset, f"{unit!r} is no escape: write \\\\ for a backslash")
        offset += len(unit)
    open_ended = units[-1:] == ["*"]  # \* isn't
    return _Token(_Kind.STRING, "".join(unit[-1] for unit in units[: len(units) - open_ended]), position, source, open_ended)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITY = ("=", "!=")
_TEXT_OF: dict[_Field, Callable[[TaskFacts], str]] = {
    _Field.TASK_TYPE: operator.attrgetter("task_type"),
    _Field.AGENT: operator.attrgetter("agent"),
    _Field.TASK_ID: operator.attrgetter("task_id"),
    _Field.PARENT_TASK_ID: lambda facts: facts.parent_task_id(),
}


def _compared(field: _Field, sign: _Token, value: _Token) -> Predicate:
    compare = _COMPARE[sign.text]
    if sign.text not in _EQUALITY and (field is _Field.STATE or value.open_ended):
        what = "state" if field is _Field.STATE else "a value that ends with *"
        _fail(sign.position, f"{what} has no order: expected one of {' '.join(_EQUALITY)}, found {sign.text}")
    if field is _Field.STATE:
        state = _named(field, value, _STATES, ", ".join(state.name for state in TaskState))
        return lambda facts: compare(facts.state, state)
    if field is _Field.PRIORITY:
        priority = _named(field, value, _PRIORITIES, ", ".join(f"{each.name} ({each.value})" for each in Priority))
        return lambda facts: compare(facts.priority, priority)
    text_of, text = _TEXT_OF[field], value.text
    if value.open_ended:
        wanted = sign.text == "="
        return lambda facts: text_of(facts).startswith(text) == wanted
    return lambda facts: compare(text_of(facts), text)


def _named(field: _Field, value: _Token, values: Mapping[str, Value], known: str) -> Value:
    if value.open_ended or value.text.upper() not in values:
        _fail(value.position, f"no {field.value} is called {_shown(value)}: expected one of {known}")
    return values[value.text.upper()]
