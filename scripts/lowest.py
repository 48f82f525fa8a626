"""Print the lowest version that each of our dependencies may have, as constraints for pip: `make test-lowest`."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest() -> dict[str, str]:
    """Name -> the lower bound, of every dependency of the core and of the extras but our own.

    Raises:
        SystemExit: a dependency has no lower bound.
    """
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"].values()
    found = {}
    for requirement in [*project["dependencies"], *(each for extra in extras for each in extra)]:
        name = re.match(r"[\w.-]+", requirement).group()
        bound = re.search(r">=([\w.]+)", requirement)
        if name == project["name"]:
            continue
        if not bound:
            raise SystemExit(f"{requirement!r} in {PROJECT.name} has no lower bound")
        found[name] = bound[1]
    return found


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in sorted(lowest().items())))
