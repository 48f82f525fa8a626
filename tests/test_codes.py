import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfuse import Codes
from bitfuse.errors import DamagedFile, InputError, UnknownFormat

bit_rows = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 300), st.integers(0, 2**32 - 1))


def bits_of(n: int, n_bits: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (n, n_bits)).astype(bool)


@given(bit_rows)
def test_bits_signs_and_packing_agree(spec):
    n, _, n_bits, seed = spec
    bits = bits_of(n, n_bits, seed)
    codes = Codes.from_bits(bits)
    assert np.array_equal(codes.packed, np.packbits(bits, axis=1))
    assert np.array_equal(codes.bits(), bits)
    assert np.array_equal(codes.signs(), np.where(bits, 1, -1))
    assert Codes.from_real(codes.signs()) == codes
    assert np.array_equal(np.unpackbits(codes.words().view(np.uint8), axis=1)[:, :n_bits], bits)
    assert not np.unpackbits(codes.words().view(np.uint8), axis=1)[:, n_bits:].any()


@given(bit_rows)
def test_hamming_is_the_count_of_differing_bits(spec):
    n, m, n_bits, seed = spec
    a, b = bits_of(n, n_bits, seed), bits_of(m, n_bits, seed + 1)
    wanted = np.array([[sum(x != y) for y in b] for x in a], dtype=np.int32).reshape(n, m)
    got = Codes.from_bits(a).hamming(Codes.from_bits(b))
    assert got.dtype == np.int32
    assert np.array_equal(got, wanted)


def test_hamming_in_blocks_equals_hamming_at_once(monkeypatch):
    a, b = Codes.from_bits(bits_of(50, 70, 0)), Codes.from_bits(bits_of(40, 70, 1))
    whole = a.hamming(b)
    monkeypatch.setattr("bitfuse.codes._ROWS_PER_BLOCK", 1)
    assert np.array_equal(a.hamming(b), whole)


def test_zero_and_minus_zero_give_a_zero_bit():
    assert Codes.from_real([[0.0, -0.0, 1e-30, -1e-30]]).bits().tolist() == [[0, 0, 1, 0]]


@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_rows_and_concatenation(n_bits, seed):
    codes = Codes.from_bits(bits_of(7, n_bits, seed))
    assert Codes.concatenate([codes[:3], codes[3:]]) == codes
    assert codes[np.array([2, 0])].bits().tolist() == codes.bits()[[2, 0]].tolist()
    assert len(codes[4]) == 1
    assert Codes.concatenate(list(codes)) == codes


def test_codes_are_immutable():
    codes = Codes.from_bits(bits_of(3, 9, 0))
    with pytest.raises(AttributeError):
        codes.n_bits = 8
    with pytest.raises(ValueError, match="read-only"):
        codes.packed[0, 0] = 1


@pytest.mark.parametrize(
    ("packed", "n_bits", "words"),
    [
        (np.zeros((2, 2), np.uint8), 17, r"\(n, 3\)"),
        (np.zeros((2, 2), np.int64), 16, "uint8"),
        (np.zeros(2, np.uint8), 16, "shape"),
        (np.full((2, 2), 255, np.uint8), 15, "pad bits"),
        (np.zeros((2, 1), np.uint8), 0, "1 to 4096"),
        (np.zeros((2, 513), np.uint8), 4097, "1 to 4096"),
        (np.zeros((2, 1), np.uint8), True, "1 to 4096"),
    ],
)
def test_bad_codes_are_refused(packed, n_bits, words):
    with pytest.raises(InputError, match=words):
        Codes(packed, n_bits)


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="finite"):
        Codes.from_real([[1.0, np.nan]])
    with pytest.raises(InputError, match="shape"):
        Codes.from_real([1.0, 2.0])
    with pytest.raises(InputError, match="0 or 1"):
        Codes.from_bits([[0, 2]])
    with pytest.raises(InputError, match="8 and 9"):
        Codes.from_bits(bits_of(1, 8, 0)).hamming(Codes.from_bits(bits_of(1, 9, 0)))
    with pytest.raises(InputError, match="one length"):
        Codes.concatenate([Codes.from_bits(bits_of(1, 8, 0)), Codes.from_bits(bits_of(1, 9, 0))])


def test_save_and_load(tmp_path):
    codes = Codes.from_bits(bits_of(5, 13, 0))
    codes.save(tmp_path / "a.codes")
    assert Codes.load(tmp_path / "a.codes") == codes
    assert [p.name for p in tmp_path.iterdir()] == ["a.codes"]


def test_damaged_and_newer_files_are_named(tmp_path, monkeypatch):
    path = tmp_path / "a.codes"
    Codes.from_bits(bits_of(50, 13, 0)).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedFile, match="truncated"):
        Codes.load(path)
    path.write_bytes(b"not a code file")
    with pytest.raises(DamagedFile):
        Codes.load(path)
    with monkeypatch.context() as newer:
        newer.setattr("bitfuse.codes.FORMAT", 99)
        Codes.from_bits(bits_of(5, 13, 0)).save(path)
    with pytest.raises(UnknownFormat, match="99"):
        Codes.load(path)
    with pytest.raises(FileNotFoundError):
        Codes.load(tmp_path / "none")
