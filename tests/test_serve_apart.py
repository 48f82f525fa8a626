"""A backbone in a process of its own: the same rows, the same errors, started anew where it ends."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Pipe

import numpy as np
import pytest
from PIL import Image

import bitfuse as bf
from bitfuse.errors import BitfuseError, CollectionError, InputError, MissingView, UnknownName
from bitfuse.serve.apart import Apart, _portable, answer


@pytest.fixture(scope="module")
def apart():
    there = Apart("pocket", None)
    yield there
    there.close()


def test_rows_are_those_of_the_backbone(apart):
    here = bf.backbone("pocket", light=True)
    texts, pictures = ["a red star", "a blue ring"], [Image.new("RGB", (60, 50), "red")]
    for view, given in (("text", texts), ("image", pictures)):
        np.testing.assert_allclose(apart.encode(view, given), here.encode(view, given), atol=1e-5)


def test_errors_come_back(apart):
    with pytest.raises(InputError, match="text"):
        apart.encode("text", [""])
    with pytest.raises(InputError):  # of an unknown view; the class takes more than a message
        apart.encode("smell", ["a"])
    assert apart.encode("text", ["a"]).shape == (1, 128)


def test_a_process_that_ends_is_started_anew(apart):
    before = apart.process
    before.kill()
    before.wait()
    assert apart.encode("text", ["a"]).shape == (1, 128)
    assert apart.process.pid != before.pid


def test_a_process_that_always_ends_is_said(monkeypatch):
    there = Apart("no such backbone in any place", None)
    try:
        with pytest.raises(CollectionError, match="ended twice"):
            there.encode("text", ["a"])
    finally:
        there.close()
    assert there.process.poll() is not None


def test_it_ends_with_the_server():
    here, there = Pipe()
    worker = threading.Thread(target=answer, args=(there,))
    worker.start()
    here.send(("pocket", None))
    here.send(("text", ["a"]))
    assert here.recv().shape == (1, 128)
    here.close()
    worker.join(10)
    assert not worker.is_alive()


def test_nothing_is_imported_from_the_folder_of_the_server(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text(f"open({os.fspath(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    there = Apart("pocket", None)
    try:
        assert there.encode("text", ["a"]).shape == (1, 128)
    finally:
        there.close()
    assert not (tmp_path / "ran").exists()


def test_every_error_can_be_sent():
    assert type(_portable(InputError("x"))) is InputError
    assert type(_portable(MissingView("image", [0], "x"))) is InputError
    assert type(_portable(UnknownName("view", "x", []))) is InputError

    class Own(Exception):
        pass

    assert type(_portable(Own("x"))) is BitfuseError
