"""Declared sizes are judged before anything of that size is made."""

import os

import pytest

from retrodict._check import InputError
from retrodict.data.limits import LIMIT_VARIABLE, VALUE_BUDGET, check_regular, check_size


def test_a_size_beyond_the_budget_names_file_size_limit_and_the_way_out():
    with pytest.raises(InputError) as caught:
        check_size("a.nii", (32767, 32767, 32767), 2)
    for part in ("a.nii", "32767 x 32767 x 32767", "2 GiB", LIMIT_VARIABLE):
        assert part in str(caught.value)


def test_the_budget_is_met_exactly():
    check_size("a", (VALUE_BUDGET // 4,), 1)  # stored in one byte, held in four
    for shape, width in (((VALUE_BUDGET // 4 + 1,), 1), ((VALUE_BUDGET // 8 + 1,), 8)):
        with pytest.raises(InputError):
            check_size("a", shape, width)
    check_size("a", (0, 10**30))
    with pytest.raises(InputError, match="negative"):
        check_size("a", (-3, -3))


def test_the_budget_can_be_set(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "0.001")
    with pytest.raises(InputError, match=r"at most 0\.001 GiB"):
        check_size("a", (1024, 1024))
    monkeypatch.setenv(LIMIT_VARIABLE, "8")
    check_size("a", (VALUE_BUDGET // 4 + 1,))
    for wrong in ("many", "-1", "nan", "inf"):
        monkeypatch.setenv(LIMIT_VARIABLE, wrong)
        with pytest.raises(InputError, match=LIMIT_VARIABLE):
            check_size("a", (1,))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    with pytest.raises(InputError, match=r"pipe\.dcm.*regular file"):
        check_regular(tmp_path / "pipe.dcm")
    check_regular(tmp_path / "absent.dcm")
    check_regular(tmp_path)
