"""Results that appear together: runs that died, runs that live, moves that were cut short, and disks that fill up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from retrodict import InputError
from retrodict._output import kept_parts, recover, require_room, staged
from retrodict.data import OutputError


@pytest.fixture(scope="module")
def gone() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def leftover(out, name, pid, files=("new.txt",), parts=(), key="k"):
    """What a run leaves that was killed while it worked."""
    staging = out / f".{name}.tmp-{pid}"
    kept_parts(staging).mkdir(parents=True)
    (staging / ".work" / "key").write_text(key)
    for file in files:
        (staging / file).write_text("new")
    for part in parts:
        (kept_parts(staging) / part).write_text("part")
    return staging


def hidden(out):
    return sorted(p.name for p in out.iterdir() if p.name.startswith("."))


def test_what_a_dead_run_left_is_removed_and_said(tmp_path, gone):
    leftover(tmp_path, "a", gone)
    (tmp_path / f".b.json.tmp-{gone}").write_text("half")
    assert recover(tmp_path) == [
        ("a", "removed what a run that died had left"),
        ("b.json", "removed what a run that died had left"),
    ]
    assert hidden(tmp_path) == []


def test_what_a_living_run_works_in_stays(tmp_path):
    leftover(tmp_path, "a", os.getppid())
    (tmp_path / ".b.json.tmp-1").write_text("of process 1, which lives as long as the machine")
    assert recover(tmp_path) == []
    with staged(tmp_path, "c"):
        assert recover(tmp_path) == []
    assert len(hidden(tmp_path)) == 2


def test_a_lock_tells_a_living_run_from_another_process_of_its_number(tmp_path):
    """The number of a process is given again, and in a container it is always the same small one."""
    staging = leftover(tmp_path, "a", os.getpid())
    (staging / ".work" / "lock").write_text("")
    assert recover(tmp_path) == [("a", "removed what a run that died had left")]


def test_names_that_only_look_like_ours_stay(tmp_path, gone):
    for name in (".hidden", f".x.tmp-{gone}-2", "a.tmp-1", f"y.tmp-{gone}"):
        (tmp_path / name).write_text("")
    assert recover(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 4


def test_finished_parts_are_found_by_the_next_run_of_the_same_key(tmp_path, gone):
    leftover(tmp_path, "a", gone, parts=("1",))
    assert recover(tmp_path) == []
    with staged(tmp_path, "a", key="k") as staging:
        assert [p.name for p in kept_parts(staging).iterdir()] == ["1"]
        (staging / "new.txt").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["new.txt"]


def test_finished_parts_of_another_key_go_when_their_place_is_taken(tmp_path, gone):
    leftover(tmp_path, "a", gone, parts=("1",), key="of other options")
    leftover(tmp_path, "b", gone, parts=("1",))
    with staged(tmp_path, "a", key="k") as staging:
        assert not any(kept_parts(staging).iterdir())
        assert hidden(tmp_path) == [f".a.tmp-{os.getpid()}", f".b.tmp-{gone}"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_keeps_parts_and_an_error_does_not(tmp_path, error):
    def run():
        with staged(tmp_path, "a", key="k") as staging:
            (kept_parts(staging) / "1").write_text("part")
            raise error

    with pytest.raises(error):
        run()
    assert len(hidden(tmp_path)) == (error is KeyboardInterrupt)


def test_an_interruption_without_parts_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "new", "a", key="k"):
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_move_that_was_killed_is_finished(tmp_path, gone, moved):
    staging = leftover(tmp_path, "a", gone, files=("1", "2"))
    for name in ("1", "2", "3"):
        (tmp_path / name).write_text("old")
    (staging / ".work" / "old").mkdir()
    (staging / ".work" / "move.json").write_text(json.dumps({"entries": ["1", "2"], "obsolete": ["3"]}))
    for name in ("1", "2")[:moved]:
        shutil.move(staging / name, tmp_path / name)
    assert recover(tmp_path) == [("a", "finished the move of the results of a run that died")]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"1": "new", "2": "new"}


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_a_move_that_fails_is_undone(tmp_path, monkeypatch, fails):
    """Two entries, one of which replaces another: the fault may come at any rename, and all is as it was before."""
    (tmp_path / "1").write_text("old")
    (tmp_path / "a_sd").write_text("old")
    real, calls = os.replace, []

    def full(source, target):
        if ".tmp-" not in os.path.basename(source):  # the plan of the move itself is written otherwise
            calls.append(target)
            if len(calls) == fails:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    def run():
        with staged(tmp_path, "a", force=True, owned=lambda n: n == "a_sd") as staging:
            (staging / "1").write_text("new")
            (staging / "2").write_text("new")
            monkeypatch.setattr("os.replace", full)

    with pytest.raises(OutputError):
        run()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"1": "old", "a_sd": "old"}


def test_results_of_an_earlier_run_that_the_new_one_lacks_go(tmp_path):
    """A point estimate beside the standard deviation of another run would be read as its own."""
    (tmp_path / "a_sd").write_text("old")
    (tmp_path / "a_other").write_text("kept")
    with staged(tmp_path, "a", force=True, owned=lambda n: n == "a_sd") as staging:
        (staging / "a_mean").write_text("new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_mean", "a_other"]


def test_nothing_is_replaced_without_force(tmp_path):
    (tmp_path / "1").write_text("old")
    with pytest.raises(InputError, match="force=True"), staged(tmp_path, "a") as staging:
        (staging / "1").write_text("new")
    assert (tmp_path / "1").read_text() == "old"
    assert hidden(tmp_path) == []


def test_a_replaced_folder_that_was_moved_aside_comes_back(tmp_path, gone):
    aside = tmp_path / f".series.old-{gone}"
    aside.mkdir()
    (aside / "1.dcm").write_text("old")
    assert recover(tmp_path) == [("series", "put back what a run that died had moved aside")]
    assert (tmp_path / "series" / "1.dcm").exists()


def test_a_disk_without_room_is_said_before_the_work(tmp_path):
    require_room(tmp_path / "not" / "there", 1)
    with pytest.raises(OutputError, match="nothing was computed"):
        require_room(tmp_path / "not" / "there", 10**18)
    assert not (tmp_path / "not").exists()
