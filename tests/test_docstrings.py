"""Every public name says what it takes and gives: parameters by name, shapes of arrays, errors, and sources.

Public is what `bitfuse.__all__` and the Python reference of the documentation list, and every method on the table.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import types

import pytest
from docs.build.reference import public

import bitfuse
from bitfuse.hashers import hasher_class, hashers

SECTION = r"^(Args|Attributes|Parameters|Returns|Yields|Raises|Warns|Examples|References):$"
SHAPE = re.compile(r"\([A-Za-z0-9_+*/ ]+,( ?[A-Za-z0-9_+*/() ]+)*\)")  # (n, d), (n,), (q, min(k, n))
ELSEWHERE = re.compile(r"\b(as|of|for|from|by|see) (there|`[\w.]+`)|`\w+`'s")  # what another docstring already says
ARRAYS = re.compile(r"NDArray|ArrayLike|\bArray\b|ndarray")


def sections(doc: str) -> dict[str, str]:
    """Heading -> its text; the text before the first heading is under the empty name."""
    parts = re.split(SECTION, inspect.cleandoc(doc), flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2]))}


def named(section: str) -> list[str]:
    """The names that an Args, Attributes, Parameters or Raises section explains."""
    heads = re.findall(r"^    (\*{0,2}\w[\w.`, *]*?)(?: \([^)]*\))?:(?:\s|$)", section, flags=re.M)
    return [name.strip("`* ") for head in heads for name in head.split(",")]


def members():
    """(dotted name, object) of every function, method, property and class to check."""
    for path in public():
        try:
            found = importlib.import_module(path)
        except ImportError:
            home, _, name = path.rpartition(".")
            found = getattr(importlib.import_module(home), name)
        if isinstance(found, types.ModuleType):
            for name, value in vars(found).items():
                if not name.startswith("_") and getattr(value, "__module__", "") == found.__name__:
                    yield from with_members(f"{path}.{name}", value)
        else:
            yield from with_members(path, found)
    for name in hashers():
        yield f"bitfuse.hashers.{name}", hasher_class(name)


def with_members(path, found):
    yield path, found
    if inspect.isclass(found) and not issubclass(found, BaseException):
        for name, value in vars(found).items():
            value = inspect.unwrap(getattr(value, "__func__", value))
            if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                yield f"{path}.{name}", value


ALL = dict(members())
CLASSES = [name for name, value in ALL.items() if inspect.isclass(value)]
CALLS = [name for name, value in ALL.items() if inspect.isfunction(value)]


def faults(value) -> list[str]:
    """What a docstring does not say."""
    doc = inspect.getdoc(value) if inspect.isclass(value) else value.__doc__
    if not doc:
        return ["no docstring"]
    said, found = sections(doc), []
    elsewhere = ELSEWHERE.search(said[""])
    if dataclasses.is_dataclass(value):
        known = {n for base in value.__mro__ for n in explained(base)}
        missing = {f.name for f in dataclasses.fields(value) if not f.name.startswith("_")} - known
        found += [f"says nothing of its field {name}" for name in sorted(missing)]
    if not inspect.isfunction(value):
        return found
    signature = inspect.signature(value)
    given = [name for name in signature.parameters if name not in ("self", "cls")]
    if "Args" in said:
        listed = named(said["Args"])
        found += [f"its Args name {name}, the signature does not" for name in listed if name not in given]
        found += [f"its Args leave {name} out" for name in given if name not in listed]
    elif not elsewhere:
        found += [f"says nothing of {name}" for name in given if not re.search(rf"\b{name}\b", said[""])]
    written = f"{signature.return_annotation} {' '.join(str(p.annotation) for p in signature.parameters.values())}"
    if ARRAYS.search(written) and not SHAPE.search(doc) and not elsewhere:
        found.append("takes or gives arrays, names no shape")
    raised = raises(value)
    if raised and not elsewhere:
        named_errors = set(re.findall(r"\w+", said.get("Raises", "")))
        found += [f"raises {name}, does not say so" for name in sorted(raised) if not known_error(name) & named_errors]
    return found


def explained(cls) -> list[str]:
    said = sections(cls.__doc__ or "")
    return named(said.get("Attributes", "")) + named(said.get("Parameters", ""))


def raises(function) -> set[str]:
    """Names of the errors that the body itself raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    thrown = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    calls = [t.func if isinstance(t, ast.Call) else t for t in thrown]
    return {c.id for c in calls if isinstance(c, ast.Name) and c.id[:1].isupper()} - {"StopIteration", "AssertionError"}


def known_error(name: str) -> set[str]:
    """The name of an error and of those it is a kind of."""
    error = getattr(bitfuse.errors, name, None)
    return {name} | ({base.__name__ for base in error.__mro__} if error else set())


def test_the_suite_finds_what_it_should():
    assert {f"{bitfuse._WHERE[n]}.{n}" for n in bitfuse.__all__ if n != "__version__"} <= set(ALL)
    assert "bitfuse.search.collection.Collection.search" in CALLS
    assert "bitfuse.hashers.base.Hasher.fit" in CALLS
    assert len(CALLS) > 80


@pytest.mark.parametrize("name", sorted(ALL))
def test_docstrings_are_whole(name):
    assert faults(ALL[name]) == []


@pytest.mark.parametrize("name", hashers())
def test_methods_name_their_source_and_their_deviations(name):
    doc = inspect.getdoc(hasher_class(name))
    said = sections(doc)
    assert re.search(r"\b(19|20)\d\d\b", said["References"])
    assert "$$" in said[""]
    assert ">>>" in said["Examples"]
    assert "Deviations from the paper" in doc


def test_faults_are_found():
    def good(x, k):
        """Rank.

        Args:
            x: (n, d) float32.
            k: how many.

        Raises:
            InputError: k is below 1.
        """
        raise bitfuse.errors.InputError

    def bad(x: "NDArray", k, more):  # noqa: F821
        """Rank.

        Args:
            x: rows.
            q: how many.
        """
        raise InputError  # noqa: F821

    assert faults(good) == []
    assert faults(bad) == [
        "its Args name q, the signature does not",
        "its Args leave k out",
        "its Args leave more out",
        "takes or gives arrays, names no shape",
        "raises InputError, does not say so",
    ]
