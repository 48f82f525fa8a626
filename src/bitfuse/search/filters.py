"""The filter language of `where=`: text to a small tree.

    filter    = both, { "or", both } ;             both   = one, { "and", one } ;
    one       = "not", one | "(", filter, ")" | name, predicate ;
    predicate = ("=" | "!=" | "<" | "<=" | ">" | ">="), value
              | ["not"], "in", "(", value, { ",", value }, ")"
              | ["not"], "between", value, "and", value
              | "is", ["not"], "null" ;
    value     = number | 'text' | true | false ;   a quote inside a text is doubled: 'it''s'
    name      = word | "any name in double quotes" ;

Every predicate is true or false, never unknown: a comparison with a missing value is false, and `not` of it is true.
A number compares with numbers alone, a text with texts, a truth value with truth values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from bitfuse.errors import InputError

Value = str | int | float | bool

MAX_LENGTH = 200_000
MAX_DEPTH = 32
MAX_PREDICATES = 256
MAX_VALUES = 10_000
OPERATORS = ("=", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Compare:
    """`name op value`."""

    name: str
    op: str
    value: Value


@dataclass(frozen=True)
class In:
    """`name in (values)`."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsNull:
    """`name is null`: the item has no value of that name."""

    name: str


@dataclass(frozen=True)
class Not:
    """The opposite of `part`."""

    part: Filter


@dataclass(frozen=True)
class And:
    """All of `parts`."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """At least one of `parts`."""

    parts: tuple[Filter, ...]


Filter = Compare | In | IsNull | Not | And | Or


def kind_of(value: Value) -> str:
    """`"text"`, `"number"` or `"truth"`: values of different kinds are never equal and never ordered."""
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def names(node: Filter) -> Iterator[str]:
    """The attribute names that a filter reads, each as often as it occurs."""
    if isinstance(node, Not):
        yield from names(node.part)
    elif isinstance(node, And | Or):
        for part in node.parts:
            yield from names(part)
    else:
        yield node.name


_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
         | (?P<text>'(?:[^']|'')*') | (?P<quoted>"(?:[^"]|"")*")
         | (?P<word>[^\W\d]\w*) | (?P<mark><=|>=|!=|<>|==|[=<>(),]))""",
    re.VERBOSE,
)
_KEYWORDS = {"and", "or", "not", "in", "between", "is", "null", "true", "false"}
_SYNONYMS = {"==": "=", "<>": "!="}


@dataclass(frozen=True)
class _Token:
    kind: str  # number, text, quoted, word, mark, keyword or end
    text: str
    at: int


def _tokens(source: str) -> list[_Token]:
    found, at, end = [], 0, len(source.rstrip())
    while at < end:
        match = _TOKEN.match(source, at)
        if match is None or match.lastgroup is None:
            bad = source[at:end].lstrip()
            hint = "; the quote is never closed" if bad[0] in "'\"" else ""
            raise InputError(f"filter: cannot read {bad[:30]!r} at character {end - len(bad)}{hint}")
        kind, text = match.lastgroup, match[match.lastgroup]
        if kind == "word" and text.lower() in _KEYWORDS:
            kind, text = "keyword", text.lower()
        found.append(_Token(kind, _SYNONYMS.get(text, text) if kind == "mark" else text, match.start(match.lastgroup)))
        at = match.end()
    return [*found, _Token("end", "the end", len(source))]


class _Parser:
    def __init__(self, source: str) -> None:
        self.tokens, self.at, self.predicates, self.values = _tokens(source), 0, 0, 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def take(self, *wanted: str) -> bool:
        """Move past the next token if it is one of these marks or keywords."""
        if self.next.kind in ("mark", "keyword") and self.next.text in wanted:
            self.at += 1
            return True
        return False

    def fail(self, expected: str) -> NoReturn:
        token = self.next
        shown = token.text if token.kind == "end" else repr(token.text)
        raise InputError(f"filter: expected {expected}, found {shown} at character {token.at}")

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            self.fail(repr(mark))

    def whole(self) -> Filter:
        tree = self.either(0)
        if self.next.kind != "end":
            self.fail("'and', 'or' or the end")
        return tree

    def either(self, depth: int) -> Filter:
        parts = [self.both(depth)]
        while self.take("or"):
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self, depth: int) -> Filter:
        parts = [self.one(depth)]
        while self.take("and"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def one(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise InputError(f"filter: nested deeper than {MAX_DEPTH}; write it flatter")
        if self.take("not"):
            return Not(self.one(depth + 1))
        if self.take("("):
            inside = self.either(depth + 1)
            self.expect(")")
            return inside
        self.predicates += 1
        if self.predicates > MAX_PREDICATES:
            raise InputError(f"filter: more than {MAX_PREDICATES} comparisons; use `in (...)` for lists of values")
        return self.predicate(self.name())

    def predicate(self, name: str) -> Filter:
        if self.next.kind == "mark" and self.next.text in OPERATORS:
            op = self.next.text
            self.at += 1
            return _compare(name, op, self.value())
        if self.take("is"):
            negated = self.take("not")
            if not self.take("null"):
                self.fail("'null' or 'not null'")
            return Not(IsNull(name)) if negated else IsNull(name)
        negated = self.take("not")
        found: Filter
        if self.take("in"):
            self.expect("(")
            values = [self.value()]
            while self.take(","):
                values.append(self.value())
            self.expect(")")
            found = In(name, tuple(values))
        elif self.take("between"):
            low = self.value()
            self.expect("and")
            found = And((_compare(name, ">=", low), _compare(name, "<=", self.value())))
        else:
            self.fail("'in' or 'between'" if negated else "a comparison, 'in', 'between' or 'is null'")
        return Not(found) if negated else found

    def name(self) -> str:
        token = self.next
        if token.kind not in ("word", "quoted"):
            self.fail("an attribute name")
        self.at += 1
        return token.text if token.kind == "word" else token.text[1:-1].replace('""', '"')

    def value(self) -> Value:
        token = self.next
        self.values += 1
        if self.values > MAX_VALUES:
            raise InputError(f"filter: more than {MAX_VALUES} values; search with fewer, or mark the items beforehand")
        if self.take("true", "false"):
            return token.text == "true"
        if token.kind == "word":
            self.fail(f"a value (a text stands in quotes: '{token.text}')")
        if token.kind not in ("number", "text", "quoted"):
            self.fail("a number, a 'text', true or false")
        self.at += 1
        if token.kind != "number":
            return token.text[1:-1].replace(token.text[0] * 2, token.text[0])
        return _number(token)


def _number(token: _Token) -> int | float:
    if token.text.lstrip("+-").isdigit():
        if len(token.text) > 20 or not -(2**63) <= int(token.text) < 2**63:
            raise InputError(f"filter: {token.text[:30]} is beyond 64-bit integers; write it with an exponent")
        return int(token.text)
    value = float(token.text)
    if value in (float("inf"), float("-inf")):
        raise InputError(f"filter: {token.text[:30]} is beyond the range of numbers")
    return value


def _compare(name: str, op: str, value: Value) -> Compare:
    if isinstance(value, bool) and op not in ("=", "!="):
        raise InputError(f"filter: true and false have no order; use {name} = {str(value).lower()} instead of {op}")
    return Compare(name, op, value)


def parse(source: str) -> Filter:
    """The tree of a filter.

    Raises:
        InputError: not a filter; the message says what was expected where (characters count from 0).

    Examples:
        >>> parse("price < 50 and not kind in ('hat', 'shoe')")
        And(parts=(Compare(name='price', op='<', value=50), Not(part=In(name='kind', values=('hat', 'shoe')))))
    """
    if not isinstance(source, str) or len(source) > MAX_LENGTH:
        raise InputError(
            f"a filter is a text of at most {MAX_LENGTH} characters, such as \"price < 50 and kind = 'hat'\""
        )
    if "\0" in source or any("\ud800" <= c <= "\udfff" for c in source):
        raise InputError("filter: it holds a character that no attribute can hold (NUL, or half a surrogate pair)")
    return _Parser(source).whole()
