"""What is released: one version, what the wheel and the sdist carry, and that the wheel works alone."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import bitfuse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"bitfuse-{PROJECT['version']}"


def test_one_version():
    assert bitfuse.__version__ == PROJECT["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest[1] == PROJECT["version"], "the changelog's newest heading is of another version"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]
    assert f"version = {{{PROJECT['version']}}}" in (ROOT / "README.md").read_text()
    said = [p for p in (ROOT / "src").rglob("*.py") if re.search(r"__version__\s*=\s*['\"]", p.read_text())]
    assert said == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("hatchling", reason="needs the group `dev`")
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", out], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out


def test_the_wheel_carries_the_package_and_nothing_else(built):
    inside = set(zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl").namelist())
    about = {f"{NAME}.dist-info/{n}" for n in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    package = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src/bitfuse").rglob("*") if p.is_file()}
    assert inside == about | {p for p in package if "__pycache__" not in p}
    data = {p for p in inside if not p.endswith(".py")} - about
    kinds = {re.sub(r"/[^/]+$", "", p) for p in data}
    assert kinds == {
        "bitfuse", "bitfuse/bench/recipes", "bitfuse/bench/templates", "bitfuse/features/pocket", "bitfuse/serve/page",
    }  # fmt: skip
    assert {p for p in data if p.count("/") == 1} == {"bitfuse/py.typed"}
    assert "bitfuse/features/pocket/model.safetensors" in data
    assert "bitfuse/serve/page/index.html" in data
    assert len([p for p in data if p.startswith("bitfuse/bench/recipes/")]) == 42
    assert (built / f"{NAME}-py3-none-any.whl").stat().st_size < 5e6


def test_the_sdist_carries_what_builds_and_tests_it(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    top = {p.partition("/")[0] for p in inside}
    assert top == {
        ".github", ".gitignore", "ARCHITECTURE.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Containerfile",
        "LICENSE", "Makefile", "PKG-INFO", "README.md", "SECURITY.md", "benchmarks", "conftest.py", "constraints.txt",
        "deploy", "docs", "mkdocs.yml", "pyproject.toml", "scripts", "src", "tests",
    }  # fmt: skip
    assert {"src/bitfuse/features/pocket/model.safetensors", "tests/test_release.py", "docs/build/pages.py"} <= inside
    assert [p for p in inside if "__pycache__" in p or p.startswith("shared")] == []


def test_every_dependency_has_a_lowest_version():
    done = subprocess.run([sys.executable, ROOT / "scripts/lowest.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert {"numpy", "torch", "fastapi"} <= {line.partition("==")[0] for line in lines}
    assert all(re.fullmatch(r"[\w.-]+==\d[\w.]*", line) for line in lines)


def test_the_workflows_run_targets_of_make_on_every_supported_python():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    pythons = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    steps, tested = [], set()
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            steps += [step["run"] for step in job["steps"] if "run" in step]
            tested |= set(job.get("strategy", {}).get("matrix", {}).get("python", ()))
    assert {"make lint", "make test", "make test-lowest", "make docs", "make dist"} <= set(steps)
    assert {step.removeprefix("make ") for step in steps} <= targets
    assert tested == pythons == {"3.11", "3.12", "3.13"}


def installed(folder: Path, what: str) -> Path:
    """An environment with this requirement and nothing else; its Python."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    command = [python, "-m", "pip", "install", "-qq", "-c", ROOT / "constraints.txt", what]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode and re.search("No matching distribution|Connection|resolve", done.stderr):
        pytest.skip(f"no package index: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return python


def alone(python: Path, folder: Path, *command: str) -> str:
    """Run in an empty folder, without anything of this environment or of the source tree."""
    place = folder / "elsewhere"
    place.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"BITFUSE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, *command], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


CORE = """
import sys
import numpy as np
import bitfuse as bf
rng = np.random.default_rng(0)
kind = rng.integers(0, 5, 300)
rows = (rng.normal(size=(5, 16))[kind] + 0.3 * rng.normal(size=(300, 16))).astype("float32")
labels = np.eye(5, dtype=bool)[kind]
bf.hasher("itq", n_bits=16).fit({"image": rows}).save("model")
model = bf.load("model")
codes = model.encode({"image": rows})
assert bf.score(codes[:50], codes[50:], labels[:50], labels[50:]).map > 0.5
index = bf.ScanIndex(16)
index.add(codes)
distances, ids = index.search(codes[:3], k=1)
assert (distances == 0).all()
shop = bf.Collection.create("shop", model="model")
shop.add({"id": str(i), "views": {"image": rows[i]}, "price": i} for i in range(300))
assert shop.search(views={"image": rows[7]}, k=1, where="price = 7")[0].id == "7"
shop.close()
assert not {"torch", "transformers"} & set(sys.modules)
assert "site-packages" in bf.__file__
try:
    bf.hasher("clipmh", n_bits=16).fit({"image": rows}, labels)
except bf.errors.MissingDependency as error:
    assert "bitfuse[clip]" in str(error)
else:
    raise AssertionError("torch is there")
print(bf.__version__)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_core_works_alone_and_weighs_at_most_600_mb(built, tmp_path):
    python = installed(tmp_path, str(built / f"{NAME}-py3-none-any.whl"))
    assert alone(python, tmp_path, "-c", CORE).strip() == PROJECT["version"]
    alone(python, tmp_path, "-m", "bitfuse", "methods")
    files = [p for p in (tmp_path / "env/lib").rglob("*") if p.is_file() and not p.is_symlink()]
    own = [p for p in files if not re.search(r"site-packages/(pip|setuptools|pkg_resources|_distutils_hack)", str(p))]
    megabytes = sum(p.stat().st_size for p in own) / 1e6
    print(f"the core weighs {megabytes:.0f} MB")
    assert megabytes <= 600


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_alone_runs_the_demo(built, tmp_path):
    python = installed(tmp_path, f"{built / f'{NAME}-py3-none-any.whl'}[clip]")
    printed = alone(python, tmp_path, "-m", "bitfuse", "demo")
    print(printed[-300:])
    assert (tmp_path / "elsewhere/demo/report.html").stat().st_size > 10_000
