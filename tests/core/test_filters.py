"""The filter language: what it means, checked against a naive evaluator, and what it says about mistakes."""

import operator
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.core.model import Priority, TaskState
from coordinator.errors import InvalidRequest
from coordinator.filters import MAX_DEPTH, MAX_FILTER_BYTES, TaskFacts, parse


def facts(
    *, state=TaskState.RUNNING, task_type="summarise", priority=2, agent="worker-1", task_id="t-1", parent_task_id="p-1", labels=None
):
    return TaskFacts(state, task_type, priority, agent, task_id, parent_task_id, tuple(sorted((labels or {}).items())))


def refusal(text):
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert caught.value.field == "filter"
    return caught.value


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_filter_matches_everything(text):
    assert parse(text).matches(facts())


@pytest.mark.parametrize(
    "text",
    [
        "state = RUNNING",
        "state=running",
        'state = "TASK_STATE_RUNNING"',
        "state != pending",
        "task_type = summarise",
        "task_type = 'summarise'",
        'task_type = "summ*"',
        "task_type = summ*",
        "task_type = *",
        'task_type != "translate*"',
        "priority = 2",
        "priority >= NORMAL AND priority < high",
        "priority > PRIORITY_LOW",
        'priority <= "CRITICAL"',
        "agent = worker-1",
        'agent > "worker-0" AND agent <= "worker-1"',
        'task_id >= "t"',
        "parent_task_id = p-1",
        "NOT state = PENDING",
        "NOT (state = PENDING OR state = RETRYING)",
        'task_type = "summarise" AND (state = RUNNING OR state = RETRYING)',
        "((((state = RUNNING))))",
    ],
)
def test_it_matches(text):
    assert parse(text).matches(facts())


@pytest.mark.parametrize(
    "text",
    [
        "state != RUNNING",
        "task_type = summ",
        "task_type != summ*",
        "task_type = Summarise",
        "priority = 1",
        "priority > 2",
        "agent = ''",
        'agent < "worker-1"',
        "NOT state = RUNNING",
        "state = RUNNING AND priority = HIGH",
        'task_type = "translate" OR agent = "other"',
    ],
)
def test_it_does_not_match(text):
    assert not parse(text).matches(facts())


def test_or_binds_tighter_than_and():
    one = facts(state=TaskState.PENDING, task_type="a")
    assert not parse("state = PENDING OR state = RUNNING AND task_type = b").matches(one)
    assert parse("state = PENDING OR (state = RUNNING AND task_type = b)").matches(one)


@pytest.mark.parametrize(
    "quoted,value,matches",
    [
        (r'"a\"b"', 'a"b', True),
        (r"'it\'s'", "it's", True),
        (r'"a\\b"', r"a\b", True),
        (r'"50\*"', "50*", True),
        (r'"50\*"', "50 percent", False),
        (r'"a*b"', "a*b", True),
        (r'"a*b"', "axb", False),
        (r'"a\\*"', "a\\ and more", True),
        (r'"a\**"', "a*more", True),
        (r'"a\**"', "amore", False),
        ('"AND"', "AND", True),
        ('"Zusammenfassung ß 要約"', "Zusammenfassung ß 要約", True),
        ('""', "", True),
    ],
)
def test_strings(quoted, value, matches):
    assert parse(f"task_type = {quoted}").matches(facts(task_type=value)) is matches


RED = facts(labels={"team": "red", "app/tier": "", "2nd": "x"})


@pytest.mark.parametrize(
    "text",
    [
        "labels.team = red",
        'labels.team = "red"',
        "labels.team:*",
        "labels.team : *",
        "labels.team = r*",
        "labels.team = *",
        "labels.team != blue",
        "labels.team != b*",
        "labels.team > blue AND labels.team <= red",
        'labels.app/tier = ""',
        "labels.app/tier:*",
        "labels.2nd = x",
        "labels.other != red",
        "NOT labels.other:*",
        "labels.team = blue OR labels.team = red",
    ],
)
def test_labels_match(text):
    assert parse(text).matches(RED)


@pytest.mark.parametrize(
    "text",
    [
        "labels.team = blue",
        "labels.team = re",
        "labels.Team = red",
        "labels.team != red",
        "labels.team != r*",
        "labels.other = red",
        'labels.other = ""',
        "labels.other = *",
        "labels.other:*",
        "labels.other < z",
        "NOT labels.team:*",
    ],
)
def test_labels_do_not_match(text):
    assert not parse(text).matches(RED)


@pytest.mark.parametrize(
    "text, only",
    [
        ("", {}),
        ("task_type = a AND labels.team = red", {"task_type": {"a"}, "labels.team": {"red"}}),
        ("task_type = a OR task_type = b", {"task_type": {"a", "b"}}),
        ("task_type = a OR labels.team = red", {}),
        ("(agent = a AND task_id = x) OR (agent = b AND task_type = y)", {"agent": {"a", "b"}}),
        ("task_type = a AND task_type = b", {"task_type": set()}),
        ("task_type = a*", {}),
        ("task_type != a", {}),
        ("NOT task_type = a", {}),
        ("NOT (NOT (task_type = a))", {}),
        ("priority = HIGH AND labels.team:*", {}),
        ("state = RUNNING OR state = PENDING", {"state": {TaskState.RUNNING, TaskState.PENDING}}),
        ("state != COMPLETED AND state != FAILED", {"state": set(TaskState) - {TaskState.COMPLETED, TaskState.FAILED}}),
    ],
)
def test_it_knows_what_it_asks_for(text, only):
    assert parse(text).only == only
    assert parse(text).states() == only.get("state", set(TaskState))


@pytest.mark.parametrize(
    "text,position,says",
    [
        (
            "status = RUNNING",
            1,
            "did you mean state? The fields are state, task_type, priority, agent, task_id, parent_task_id, labels.NAME",
        ),
        ("label.team = red", 1, "did you mean"),
        ("labels = red", 1, "did you mean labels.NAME?"),
        ("labels. = red", 1, "'labels.' names no label"),
        ("labels.-x = red", 1, "names no label: one has 1 to 64 letters, digits and . _ / -"),
        (f"labels.{'x' * 65} = red", 1, "names no label"),
        ("labels.team:red", 12, "':' isn't supported but in labels.NAME:*"),
        ("labels.team", 12, "expected one of = != < <= > >= after labels.team"),
        ("state = RUNNING AND agent_name = a", 21, "did you mean agent?"),
        ("State = RUNNING", 1, "did you mean state?"),
        ("zzzz = 1", 1, "no field is called 'zzzz': the fields are"),
        ('"state" = RUNNING', 1, "expected NOT, ( or a field"),
        ("state = DONE", 9, "expected one of PENDING, RUNNING, RETRYING, COMPLETED, FAILED, CANCELLED"),
        ("state = RUN*", 9, "no state is called 'RUN*'"),
        ("state = TASK_STATE_UNSPECIFIED", 9, "no state is called"),
        ("priority = 5", 12, "expected one of LOW (1), NORMAL (2), HIGH (3), CRITICAL (4)"),
        ("priority = 1*", 12, "no priority is called"),
        ("state < RUNNING", 7, "state has no order: expected one of = !=, found <"),
        ('agent >= "a*"', 7, "has no order"),
        ("state RUNNING", 7, "expected one of = != < <= > >= after state, found 'RUNNING'"),
        ("state", 6, "found the end"),
        ("state =", 8, "expected a value after =, found the end"),
        ("state = = RUNNING", 9, "expected a value after ="),
        ("agent = AND", 9, "expected a value after =, found AND"),
        ("state = RUNNING AND", 20, "expected NOT, ( or a field"),
        ("AND state = RUNNING", 1, "found AND"),
        ("NOT NOT state = RUNNING", 5, "found NOT"),
        ("state = RUNNING state = PENDING", 17, "expected AND, OR or the end, found 'state'"),
        ("state = RUNNING and agent = a", 17, "(write AND in capitals)"),
        ("(state = RUNNING or agent = a)", 18, "(write OR in capitals)"),
        ("(state = RUNNING", 17, "expected AND, OR or ), found the end"),
        ("state = RUNNING)", 16, "expected AND, OR or the end"),
        ("()", 2, "expected NOT, ( or a field"),
        ('task_type = "open', 13, 'has no closing "'),
        (r"task_type = 'open\'", 13, "has no closing '"),
        (r'task_type = "a\n"', 15, "is no escape"),
        ("task_type:a", 10, "':' isn't supported"),
        ("state, x", 6, "',' can't stand here"),
        ("state ! RUNNING", 7, "expected != or NOT"),
        ("  task_type = summarise  state", 26, "expected AND, OR or the end"),
    ],
)
def test_a_mistake_is_shown_with_its_place(text, position, says):
    error = refusal(text)
    assert error.metadata == {"position": str(position)}
    assert f"at character {position}: " in error.message
    assert says in error.message


def test_its_length_is_bounded_in_bytes():
    def filled(size):
        frame = 'task_type = "{}"'
        return frame.format("x" * (size - len(frame.format(""))))

    parse(filled(MAX_FILTER_BYTES))
    assert "4097 bytes: at most 4096" in refusal(filled(MAX_FILTER_BYTES + 1)).message
    assert "at most 4096" in refusal(f'task_type = "{"ß" * (MAX_FILTER_BYTES // 2)}"').message


def test_its_nesting_is_bounded():
    def nested(depth):
        return "(" * depth + "state = RUNNING" + ")" * depth

    assert parse(nested(MAX_DEPTH)).matches(facts())
    assert parse(" AND ".join([nested(MAX_DEPTH)] * 3)).matches(facts()), "depth, not count"
    assert "nested more than 32 deep" in refusal(nested(MAX_DEPTH + 1)).message
    assert "nested more than 32 deep" in refusal("NOT (" * 500).message


def test_a_wrong_word_is_not_repeated_at_length():
    assert len(refusal("x" * 4000 + " = 1").message) < 300


# The same language once more: as trees, written out with random blanks and quotes, and evaluated in the plainest way.

OPERATORS = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
TEXTS = st.text(alphabet="ab*\"\\' (:ß", max_size=4)
STATES = st.sampled_from(TaskState)
BLANKS = st.sampled_from([" ", "  ", "\n", "\t "])


def written(text, quote):
    for special in ("\\", "*", quote):
        text = text.replace(special, "\\" + special)
    return text


@st.composite
def comparisons(draw):
    """A comparison as written, and its meaning."""
    field = draw(st.sampled_from(["state", "priority", "task_type", "agent", "task_id", "parent_task_id", "labels.x"]))
    gap = draw(st.sampled_from(["", " "]))
    if field == "state":
        sign, state = draw(st.sampled_from(["=", "!="])), draw(STATES)
        name = draw(st.sampled_from([state.name, state.name.lower(), f"TASK_STATE_{state.name}"]))
        return f"state{gap}{sign}{gap}{name}", lambda task: OPERATORS[sign](task["state"], state)
    sign = draw(st.sampled_from(sorted(OPERATORS)))
    if field == "labels.x" and draw(st.integers(0, 3)) == 0:
        return f"labels.x{gap}:{gap}*", lambda task: task["labels.x"] is not None
    if field == "priority":
        number = draw(st.integers(1, 4))
        name = draw(st.sampled_from([str(number), Priority(number).name, Priority(number).name.title()]))
        return f"priority{gap}{sign}{gap}{name}", lambda task: OPERATORS[sign](task["priority"], number)
    text, quote = draw(TEXTS), draw(st.sampled_from("\"'"))
    if draw(st.booleans()):
        sign = draw(st.sampled_from(["=", "!="]))
        source = f"{field}{gap}{sign}{gap}{quote}{written(text, quote)}*{quote}"
        return source, lambda task: (task[field] is not None and task[field][: len(text)] == text) == (sign == "=")

    def means(task):
        return sign == "!=" if task[field] is None else OPERATORS[sign](task[field], text)

    return f"{field}{gap}{sign}{gap}{quote}{written(text, quote)}{quote}", means


def joined(parts, word, blank):
    return f"{blank}{word}{blank}".join(f"({source})" for source, _ in parts)


def trees(inner):
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        st.builds(lambda part: (f"NOT ({part[0]})", lambda task: not part[1](task)), inner),
        st.builds(lambda parts, blank: (joined(parts, "AND", blank), lambda task: all(part[1](task) for part in parts)), several, BLANKS),
        st.builds(lambda parts, blank: (joined(parts, "OR", blank), lambda task: any(part[1](task) for part in parts)), several, BLANKS),
    )


TASKS = st.fixed_dictionaries(
    {"state": STATES, "priority": st.integers(1, 4), "task_type": TEXTS, "agent": TEXTS, "task_id": TEXTS, "parent_task_id": TEXTS}
    | {"labels.x": st.none() | TEXTS}
)


def facts_of(task):
    labels = {} if task["labels.x"] is None else {"x": task["labels.x"]}
    return facts(**{field: value for field, value in task.items() if field != "labels.x"}, labels=labels)


@given(tree=st.recursive(comparisons(), trees, max_leaves=8), task=TASKS)
def test_it_means_what_the_naive_evaluator_says(tree, task):
    source, meaning = tree
    assert parse(source).matches(facts_of(task)) == meaning(task)


@given(groups=st.lists(st.lists(comparisons(), min_size=1, max_size=3), min_size=1, max_size=3), task=TASKS)
def test_without_parentheses_it_is_an_and_of_ors(groups, task):
    source = " AND ".join(" OR ".join(text for text, _ in group) for group in groups)
    assert parse(source).matches(facts_of(task)) == all(any(meaning(task) for _, meaning in group) for group in groups)


@given(tree=st.recursive(comparisons(), trees, max_leaves=8), task=TASKS)
def test_what_it_asks_for_leaves_out_nothing_that_matches(tree, task):
    wanted = parse(tree[0])
    if wanted.matches(facts_of(task)):
        assert all(task[field] in values for field, values in wanted.only.items())


PIECES = st.sampled_from(
    [
        "state",
        "priority",
        "agent",
        "AND",
        "OR",
        "NOT",
        "and",
        "(",
        ")",
        "=",
        "!=",
        "<",
        ">=",
        "!",
        "*",
        '"',
        "'",
        "\\",
        '"a"',
        "RUNNING",
        "3",
        " ",
        ":",
        "labels.",
        "labels.a",
    ]
)


@given(
    text=st.one_of(
        st.text(alphabet=st.characters(exclude_categories=())), st.lists(PIECES, max_size=30).map("".join), st.text(string.printable)
    )
)
@example("\ud800")
@example('agent = "\ud800"')
@example("\x00")
@example("²")
def test_garbage_is_refused_or_understood_but_nothing_else(text):
    try:
        answer = parse(text).matches(facts())
    except InvalidRequest as refused:
        error = refused
    else:
        assert answer in (True, False)
        return
    assert error.field == "filter"
    error.message.encode()  # it can be sent
