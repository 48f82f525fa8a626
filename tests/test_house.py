"""The rules of the house that a machine can hold: lazy imports, the import contract, names tied to files."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bitfuse
from bitfuse.data.read import read
from bitfuse.errors import MissingDependency
from bitfuse.hashers import _TABLE, hasher, hasher_class, hashers

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "numba", "transformers", "matplotlib", "fastapi"}
HEAVY_AT_START = HEAVY | {"scipy", "pyarrow", "PIL", "h5py"}


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import bitfuse", HEAVY_AT_START),
        ("import bitfuse.cli; bitfuse.cli.register()", HEAVY_AT_START),
        ("import bitfuse; [bitfuse.hasher(name) for name in bitfuse.hashers()]", HEAVY),
    ],
)
def test_heavy_libraries_are_imported_by_the_verb_that_needs_them(code, unwanted):
    assert unwanted & modules_after(code) == set()


def test_imports_go_one_way():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_public_names_are_sorted_and_load():
    assert bitfuse.__all__ == sorted(bitfuse.__all__)
    for name in bitfuse.__all__:
        assert getattr(bitfuse, name) is not None
    assert dir(bitfuse) == bitfuse.__all__
    with pytest.raises(AttributeError, match="nothing"):
        bitfuse.nothing  # noqa: B018


def test_the_table_of_methods_is_the_folder_of_methods():
    files = {p.stem for p in (ROOT / "src/bitfuse/hashers").glob("*.py") if not p.stem.startswith("_")} - {"base"}
    assert set(hashers()) == files
    for name in hashers():
        cls = hasher_class(name)
        assert cls.__module__ == f"bitfuse.hashers.{name}"
        assert cls.reference
        assert cls.year
        assert cls.__doc__
    assert list(_TABLE) == sorted(_TABLE)


def test_unknown_names_are_answered_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'clipmh'"):
        hasher("clipmhh")
    with pytest.raises(ValueError, match="parameter of itq"):
        hasher("itq", sede=1)
    with pytest.raises(ValueError, match="preset of lsh"):
        hasher("lsh", preset="publshed")
    with pytest.raises(ValueError, match="n_bits"):
        hasher("itq", n_bits=0)


def test_the_version_stands_in_one_place():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{bitfuse.__version__}"' in text
    assert importlib.metadata.version("bitfuse") == bitfuse.__version__


def test_the_table_of_methods_in_the_readme_is_fresh():
    script = ROOT / "scripts" / "method_table.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_an_extra_the_error_names_it(tmp_path, monkeypatch):
    table = tmp_path / "items.parquet"
    table.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"bitfuse\[parquet\]"):
        read(table)
