r"""The filter of ListTasks and WatchTasks: parsed once, then matched against many tasks. It knows a task's facts only, no protos.

The language is a subset of AIP-160 (https://google.aip.dev/160), with its precedence: OR binds tighter than AND.

    filter     = [ factors ]
    factors    = term { "AND" term }
    term       = factor { "OR" factor }
    factor     = [ "NOT" ] ( "(" factors ")" | comparison )
    comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
               | "labels." name ":*"          it has the label
    field      = a name | "labels." name
    value      = word | string            quotes are single or double; \" \' \\ and \* stand for the character itself

A `*` that ends a value matches any end; everywhere else it is a character like any other. A task without a label fulfils no comparison of
it but `!=`.

Beside what a filter means it is known what it asks for at least: see `Filter.only`.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, NoReturn, TypeVar

from coordinator.checks import LABEL_NAME
from coordinator.core.model import Labels, Priority, TaskState
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
    parent_task_id: str
    labels: Labels


Only = Mapping[str, frozenset[Any]]
Predicate = Callable[[TaskFacts], bool]


class Filter:
    """A parsed filter. `text` is what it was parsed from.

    `only` has fields with the only values that a task may have there to match: text, but for "state" TaskStates; those of labels are called
    "labels.NAME". So it tells where to look, and how little: what has these values may match, and nothing else can.

    Args:
        text: the source.
        predicate: what it means.
        only: what follows from it.
    """

    __slots__ = ("_predicate", "only", "text")

    def __init__(self, *, text: str, predicate: Predicate, only: Only) -> None:
        self.text = text
        self._predicate = predicate
        self.only = only

    def matches(self, facts: TaskFacts) -> bool:
        """Whether the filter lets a task with these facts through."""
        return self._predicate(facts)

    def states(self) -> frozenset[TaskState]:
        """The states that a task may be in to match."""
        return self.only.get("state", _ALL_STATES)


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
    parsed = _Parser(text).parse()
    return Filter(text=text, predicate=parsed.predicate, only=parsed.only)


Value = TypeVar("Value")
_ALL_STATES = frozenset(TaskState)


class _Condition(NamedTuple):
    """A part of a filter: what it means, and what follows from it."""

    predicate: Predicate
    only: Only


def _all_of(parts: Sequence[_Condition]) -> _Condition:
    if len(parts) == 1:
        return parts[0]
    predicates = [part.predicate for part in parts]
    only: dict[str, frozenset[Any]] = {}
    for part in parts:
        for field, values in part.only.items():
            only[field] = only[field] & values if field in only else values
    return _Condition(lambda facts: all(predicate(facts) for predicate in predicates), only)


def _any_of(parts: Sequence[_Condition]) -> _Condition:
    if len(parts) == 1:
        return parts[0]
    predicates = [part.predicate for part in parts]
    shared = [field for field in parts[0].only if all(field in part.only for part in parts)]
    only = {field: frozenset[Any]().union(*(part.only[field] for part in parts)) for field in shared}
    return _Condition(lambda facts: any(predicate(facts) for predicate in predicates), only)


def _none_of(part: _Condition) -> _Condition:
    """Nothing follows from it: a task that has one of the values of `part.only` may fail `part` by another condition."""
    predicate = part.predicate
    return _Condition(lambda facts: not predicate(facts), {})


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
        (?P<OPERATOR> != | <= | >= | = | < | > | : )
      | (?P<OPEN> \( )
      | (?P<CLOSE> \) )
      | (?P<STRING> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
      | (?P<WORD> [^\s()"'=!<>:,\\]+ )
    )""",
    re.VERBOSE | re.DOTALL,
)
_UNIT = re.compile(r"\\.|[^\\]", re.DOTALL)  # of a string: an escape, or a character
_KEYWORDS = ("AND", "OR", "NOT")
_TEXT_OF: dict[str, Callable[[TaskFacts], str]] = {
    name: operator.attrgetter(name) for name in ("task_type", "agent", "task_id", "parent_task_id")
}
LABELS = "labels."
_FIELD_NAMES = ("state", "task_type", "priority", "agent", "task_id", "parent_task_id")
_FIELDS = ", ".join((*_FIELD_NAMES, f"{LABELS}NAME"))
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

    def parse(self) -> _Condition:
        if self._at(_Kind.END):
            return _Condition(lambda _: True, {})
        condition = self._factors()
        if not self._at(_Kind.END):
            _expected("AND, OR or the end", self._next)
        return condition

    def _factors(self) -> _Condition:
        terms = [self._term()]
        while self._take_keyword("AND"):
            terms.append(self._term())
        return _all_of(terms)

    def _term(self) -> _Condition:
        factors = [self._factor()]
        while self._take_keyword("OR"):
            factors.append(self._factor())
        return _any_of(factors)

    def _factor(self) -> _Condition:
        if self._take_keyword("NOT"):
            return _none_of(self._group_or_comparison())
        return self._group_or_comparison()

    def _group_or_comparison(self) -> _Condition:
        if not self._at(_Kind.OPEN):
            return self._comparison()
        if self._depth == MAX_DEPTH:
            _fail(self._next.position, f"parentheses are nested more than {MAX_DEPTH} deep")
        self._depth += 1
        self._take()
        condition = self._factors()
        if not self._at(_Kind.CLOSE):
            _expected("AND, OR or )", self._next)
        self._take()
        self._depth -= 1
        return condition

    def _comparison(self) -> _Condition:
        field = self._field()
        if not self._at(_Kind.OPERATOR):
            _expected(f"one of {' '.join(_COMPARE)} after {field}", self._next)
        sign = self._take()
        if sign.text == ":" and not (field.startswith(LABELS) and self._next.source == "*"):
            _fail(sign.position, f"':' isn't supported but in {LABELS}NAME:*, has the label: use = (a value may end with *)")
        if not self._at(_Kind.WORD, _Kind.STRING) or self._next.source in _KEYWORDS:
            _expected(f"a value after {sign.text}", self._next)
        return _compared(field, sign, self._take())

    def _field(self) -> str:
        name = self._next
        if name.kind is not _Kind.WORD or name.source in _KEYWORDS:
            _expected(f"NOT, ( or a field ({_FIELDS})", name)
        if name.source.startswith(LABELS):
            if not LABEL_NAME.fullmatch(name.source[len(LABELS) :]):
                _fail(name.position, f"{_shown(name)} names no label: one has 1 to 64 letters, digits and . _ / -")
        elif name.source not in _FIELD_NAMES:
            near = difflib.get_close_matches(name.source.lower(), [*_FIELD_NAMES, "labels"], n=1)
            suggestion = f"did you mean {near[0].replace('labels', 'labels.NAME')}? The" if near else "the"
            _fail(name.position, f"no field is called {_shown(name)}: {suggestion} fields are {_FIELDS}")
        self._take()
        return name.source

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


def _compared(field: str, sign: _Token, value: _Token) -> _Condition:
    if sign.text == ":":
        name = field[len(LABELS) :]
        return _Condition(lambda facts: any(label == name for label, _ in facts.labels), {})
    compare = _COMPARE[sign.text]
    if sign.text not in _EQUALITY and (field == "state" or value.open_ended):
        what = "state" if field == "state" else "a value that ends with *"
        _fail(sign.position, f"{what} has no order: expected one of {' '.join(_EQUALITY)}, found {sign.text}")
    if field == "state":
        state = _named(field, value, _STATES, ", ".join(state.name for state in TaskState))
        states = frozenset(each for each in TaskState if compare(each, state))
        return _Condition(lambda facts: facts.state in states, {field: states})
    if field == "priority":
        priority = _named(field, value, _PRIORITIES, ", ".join(f"{each.name} ({each.value})" for each in Priority))
        return _Condition(lambda facts: compare(facts.priority, priority), {})
    only: Only = {field: frozenset((value.text,))} if sign.text == "=" and not value.open_ended else {}
    if field.startswith(LABELS):
        return _Condition(_of_label(field[len(LABELS) :], sign, value), only)
    text_of, text = _TEXT_OF[field], value.text
    if value.open_ended:
        wanted = sign.text == "="
        return _Condition(lambda facts: text_of(facts).startswith(text) == wanted, only)
    return _Condition(lambda facts: compare(text_of(facts), text), only)


def _of_label(name: str, sign: _Token, value: _Token) -> Predicate:
    compare, text = _COMPARE[sign.text], value.text
    if sign.text == "!=":  # what doesn't have the label isn't equal either
        fulfils = str.startswith if value.open_ended else operator.eq
        return lambda facts: not any(label == name and fulfils(known, text) for label, known in facts.labels)
    fulfils = str.startswith if value.open_ended else compare
    return lambda facts: any(label == name and fulfils(known, text) for label, known in facts.labels)


def _named(field: str, value: _Token, values: Mapping[str, Value], known: str) -> Value:
    if value.open_ended or value.text.upper() not in values:
        _fail(value.position, f"no {field} is called {_shown(value)}: expected one of {known}")
    return values[value.text.upper()]
