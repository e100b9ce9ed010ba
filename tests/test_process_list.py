"""The list of processes: what a docstring has to say, the command, its pictures, and the page of the documentation."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from retrodict import InputError
from retrodict.processes import PROCESSES
from retrodict.tasks import gaussian_card as bench
from retrodict.tasks.process_picture import picture
from retrodict.tasks.processes import described, example, options_of, settings, told
from shell import retrodict as command_line

ROOT = Path(__file__).resolve().parents[1]


def pages():
    spec = importlib.util.spec_from_file_location("process_pages", ROOT / "scripts" / "process_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def listed():
    return command_line("processes", "--json")


# ---- docstrings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_every_constructor_says_what_it_is_its_law_and_its_source(name):
    what, law, source = told(PROCESSES[name].__doc__ or "")
    assert 8 <= len(what) <= 200, what
    assert re.search(r"(h|H|h\^2) = ", law), "the docstring needs a sentence with 'h = ...'"
    assert re.search(r"\b(19|20)\d\d\b", source), "the docstring needs authors and a year"


def test_a_docstring_is_told_apart():
    text = """A straight line (with a pull): h = 1 - t, k = t.

    More of it, e.g. at t = 1 (Li et al. 2023, eq. 4; Doe and Roe 2024, table 1).  `level`: noise.
    """
    what, law, source = told(text)
    assert what == "A straight line (with a pull)"
    assert law == "h = 1 - t, k = t"
    assert source == "Li et al. 2023, eq. 4; Doe and Roe 2024, table 1"
    assert told("Nothing at all.") == ("Nothing at all", "", "")


def test_one_process_is_told_whole():
    found = described("vp")
    assert found.what == "Variance preserving with a linear rate"
    assert found.law.startswith("log h = -t^2 (b1 - b0)/4 - t b0/2, s^2 = 1 - h^2")
    assert found.source == "Song et al. 2021, eq. 11; Ho, Jain, Abbeel 2020"
    assert (found.conditioning, found.pulled, found.memory) == ("none", False, "Markov")
    assert found.options == {"beta_min": 0.1, "beta_max": 20.0}
    assert described("mean_reverting").pulled
    assert described("fourier").conditioning == "terminal"
    assert described("measured").required == ("mtf", "nps")
    assert described("wavelet_bands").basis == "wavelet"


def test_memory_is_told(monkeypatch):
    from retrodict.processes.process import Process

    def wrong(basis, **pairing):
        return Process(lambda _: lambda t: (1 - 0.5 * t, 0 * t, 0.3 * (3 * t).sin()), basis)

    def own(basis, **pairing):
        plain = PROCESSES["scalar"](basis)
        return Process(plain.family, basis, memory=lambda _: lambda t: 1 - 0.5 * t)

    monkeypatch.setitem(PROCESSES, "wrong", wrong)
    monkeypatch.setitem(PROCESSES, "own", own)
    assert described("wrong").memory == "no SDE: its clock falls"
    assert described("own").memory == "a memory of its own"


# ---- options -------------------------------------------------------------------------------------------------------


def test_options_are_read_as_numbers_lists_and_words():
    given = ["beta_schedule=sigmoid", "steps=100", "zero_terminal_snr=true", "betas=[0.1, 0.2, 0.3]"]
    found = settings("discrete", given)
    assert found == {"beta_schedule": "sigmoid", "steps": 100, "zero_terminal_snr": True, "betas": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("vp", "beta", "NAME=VALUE"),
        ("vp", "beta_maxx=3", "Did you mean 'beta_max'"),
        ("scalar", "speed=3", "scalar has none"),
    ],
)
def test_a_wrong_option_is_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        settings(name, [given])


def test_an_example_takes_the_basis_that_its_process_needs():
    assert type(example("wavelet_bands").basis).__name__ == "Wavelet"
    assert type(example("vp").basis).__name__ == "Fourier"
    assert "mtf" in options_of("measured")
    with pytest.raises(InputError, match="steps"):
        example("discrete", {"steps": 2})


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_list_has_every_process(listed):
    assert [e["name"] for e in json.loads(listed.stdout)["processes"]] == list(PROCESSES)


def test_the_list_is_legible_on_a_narrow_terminal():
    done = command_line("processes", columns=80)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    for name in PROCESSES:
        assert re.search(rf"^{name} ", done.stdout, re.MULTILINE), name


def test_one_process_is_shown_with_options_and_picture(tmp_path):
    path = tmp_path / "ve.png"
    done = command_line("processes", "ve", "--set", "sigma_max=9", "--plot", path)
    assert done.returncode == 0, done.stderr
    for said in ("Song et al. 2021", "sigma_min = 0.01", "sigma_max = 50.0 -> 9", "from noise; Markov", "ve.png"):
        assert said in done.stdout
    assert Image.open(path).size[0] > 600
    again = command_line("processes", "ve", "--plot", path)
    assert again.returncode == 5
    assert "--force" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["vpp"], "Did you mean 'vp'", 3),
        (["vp", "--set", "beta=1"], "Did you mean 'beta_min'", 2),
        (["--set", "beta_max=1"], "--set: found no NAME", 2),
        (["--plot", "x.png"], "--plot: found no NAME", 2),
        (["vp", "--plot", "x.jpg"], "ends in .png", 2),
    ],
)
def test_wrong_words_are_refused(arguments, message, code):
    done = command_line("processes", *arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("name", ["fourier", "mean_reverting"])
def test_a_picture_is_small_and_the_same_every_time(name):
    png = picture(name)
    assert len(png) <= 60_000
    assert Image.open(io.BytesIO(png)).format == "PNG"
    if name == "mean_reverting":
        assert picture(name) == png


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_has_the_table_and_pictures_of_the_package():
    assert pages().missing() == []


# ---- any pair on the card ------------------------------------------------------------------------------------------


def test_a_pair_is_carded_with_options():
    records = bench.gaussian_card([4], processes=["vp"], rules=["ddim"], options={"beta_max": 5.0})
    assert {(r["setup"], r["process"], r["sampler"]) for r in records} == {("U", "vp", "ddim"), ("R", "vp", "ddim")}
    plain = bench.gaussian_card([4], processes=["vp"], rules=["ddim"])
    assert records[0]["variance"] != plain[0]["variance"]


def test_the_command_cards_one_pair():
    done = command_line(
        "bench",
        "gaussian-card",
        "--process",
        "edm",
        "--rule",
        "heun",
        "--set",
        "sigma_max=20",
        "--steps",
        "2",
        "--json",
    )
    records = json.loads(done.stdout)["records"]
    assert {(r["process"], r["sampler"]) for r in records} == {("edm", "heun")}
    assert {r["steps"] for r in records} == {2, 16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process", "vpp"], "--process: found 'vpp'"),
        (["--rule", "dim"], "Did you mean 'ddim'"),
        (["--set", "beta_max=2"], "--set: found no --process"),
        (["--process", "vp", "--set", "beta=2"], "beta_min"),
    ],
)
def test_wrong_pairs_are_refused(arguments, message):
    done = command_line("bench", "gaussian-card", *arguments)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_rule_that_is_not_defined_is_refused_with_those_that_are(monkeypatch):
    from retrodict.processes.process import Process

    def wrong(basis, conditioning="none"):
        return Process(lambda _: lambda t: (1 - 0.5 * t, 0 * t, 0.3 * (3 * t).sin()), basis)

    monkeypatch.setitem(PROCESSES, "wrong", wrong)
    monkeypatch.setattr(bench, "_restoring_process", lambda name, options, instrument: "not diagonal")
    with pytest.raises(InputError, match="For wrong there are ddim") as caught:
        bench.gaussian_card([4], processes=["wrong"], rules=["matched"])
    assert caught.value.field == "rule"
    assert "never decreases" in str(caught.value)
