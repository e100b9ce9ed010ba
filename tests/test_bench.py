"""The gate: what is documented as a posterior sampler is one, on the Gaussian card, at its default number of steps."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from objects import fits, make_process, restoring_process, steps_needed
from retrodict._check import InputError
from retrodict.processes import PROCESSES
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import RULES
from retrodict.tasks import gaussian_card as bench
from retrodict.tasks.gaussian_card_table import render

POSTERIOR = [name for name, rule in RULES.items() if rule.posterior]
UNCONDITIONAL = [name for name in PROCESSES if name not in ("fourier", "measured")]
RESTORING = [name for name in PROCESSES if name not in WAVELET_PROCESSES]
EXTERNAL = [name for name in RESTORING if name not in ("fourier", "measured")]


def farthest(record: dict) -> tuple[float, float]:
    return abs(record["worst_gain"] - 1), abs(record["worst_variance"] - 1)


# ---- the gate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", POSTERIOR)
@pytest.mark.parametrize("process", RESTORING)
def test_documented_posterior_samplers_pass_at_their_default_steps(process, rule):
    if not fits(rule, make_process(process)):
        pytest.skip("an SDE, and a process that has none")
    needed = steps_needed(restoring_process(process), RULES[rule])
    records = bench.card_restoration((needed,), [process], [rule])
    assert all(record["documented"] for record in records)
    verdicts = {record["steps"]: record["verdict"] for record in records}
    assert verdicts.pop(needed) == "posterior", [(record["gain"], record["variance"]) for record in records]
    assert set(verdicts.values()) <= {"not calibrated"}  # a steep clock at the default steps, which the gate refuses


@pytest.mark.parametrize("process", RESTORING)
def test_a_rule_that_is_not_a_posterior_sampler_fails_the_gate(process):
    (record,) = bench.card_restoration((), [process], ["ancestral"])
    gain, variance = farthest(record)
    assert record["verdict"] == "not calibrated"
    assert gain < bench.GAIN_LIMIT  # its mean is right: it is the variance that fails
    assert variance > bench.VARIANCE_LIMIT
    assert record["worst_variance"] < 1


@pytest.mark.parametrize("process", ["fourier", "measured"])
def test_a_deterministic_rule_from_a_measurement_is_a_point(process):
    (record,) = bench.card_restoration((), [process], ["ddim"])
    assert record["verdict"] == "point"
    assert record["variance"] == [0.0] * bench.BANDS


@pytest.mark.parametrize(
    ("gain", "variance", "verdict"),
    [
        ([1.0, 1.0199], [1.0499, 0.9501], "posterior"),
        ([1.0, 1.021], [1.0, 1.0], "not calibrated"),
        ([1.0, 0.979], [1.0, 1.0], "not calibrated"),
        ([1.0, 1.0], [1.0, 1.051], "not calibrated"),
        ([1.0, 1.0], [0.949, 1.0], "not calibrated"),
        ([1.0, 1.0], [0.0, 0.0], "point"),
        ([1.0, float("nan")], [1.0, 1.0], "failed"),
        ([], [], "failed"),
    ],
)
def test_the_verdict_looks_at_the_worst_entry(gain, variance, verdict):
    assert bench.judge("R", gain, variance)[2] == verdict


def test_an_unconditional_card_never_says_posterior():
    assert bench.judge("U", [1.0], [1.0])[2] == "calibrated"


# ---- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("process", UNCONDITIONAL)
@pytest.mark.parametrize("rule", ["matched", "gaussian_ode"])
def test_exact_without_a_measurement_at_any_number_of_evaluations(process, rule, steps):
    record = chosen(bench.card_unconditional([steps], [process], [rule]), steps)
    assert record["nfe"] == steps
    assert max(farthest(record)) < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("process", RESTORING)
def test_matched_has_the_posterior_gain_and_variance_at_any_number_of_evaluations(process, steps):
    record = chosen(bench.card_restoration([steps], [process], ["matched"]), steps)
    assert max(farthest(record)) < 1e-6
    assert max(record["largest_error"].values()) < 1e-6  # at every coefficient, not on average in a band


@pytest.mark.parametrize("process", EXTERNAL)
def test_the_flow_of_the_gaussian_posterior_is_exact_from_a_random_start(process):
    record = chosen(bench.card_restoration([8], [process], ["gaussian_ode"]), 8)
    assert max(farthest(record)) < 1e-6


def chosen(records: list[dict], steps: int) -> dict:
    (record,) = [r for r in records if r["steps"] == steps]
    return record


# ---- what is covered ------------------------------------------------------------------------------------------------


def test_the_setup_spans_strong_and_weak_signal():
    setup, instrument = bench.restoration_setup()
    assert instrument.measurement is not None
    snr = instrument.measurement.h**2 * setup.spectrum / instrument.measurement.s2
    assert float(snr.max()) > 100
    assert float(snr.min()) < 1e-3
    assert int(sum(part.sum() for part in setup.parts)) == setup.spectrum.numel()
    assert len(setup.labels) == len(setup.parts) == bench.BANDS


def test_every_process_and_rule_has_a_row_or_a_reason():
    records = bench.card_unconditional((), rules=["matched", "ddim"])
    records += bench.card_restoration((), rules=["matched", "ddim"], size=16)
    rows = {(r["setup"], r["process"], r["sampler"]) for r in records}
    assert rows == {(s, p, r) for s in "UR" for p in PROCESSES for r in ("matched", "ddim")}
    undefined = {(r["setup"], r["process"]) for r in records if r["verdict"] == "undefined"}
    assert undefined == {("U", "fourier"), ("U", "measured"), *(("R", name) for name in WAVELET_PROCESSES)}
    assert all(r["reason"] for r in records if r["verdict"] in ("undefined", "point"))


def test_stochastic_rules_are_undefined_where_the_clock_runs_backwards(monkeypatch):
    from retrodict.processes.process import Process

    def wrong(basis, conditioning):
        def law(t):
            return 1 - 0.5 * t, 0 * t, 0.3 * torch.sin(3 * t)

        return Process(lambda _: law, basis)

    monkeypatch.setitem(PROCESSES, "wrong", wrong)
    (record,) = bench.card_unconditional((), ["wrong"], ["matched"])
    assert record["verdict"] == "undefined"
    assert "never decreases" in record["reason"]
    (record,) = bench.card_unconditional((), ["wrong"], ["ddim"])
    assert record["verdict"] != "undefined"


def test_the_number_of_steps_must_be_positive():
    with pytest.raises(InputError, match="steps"):
        bench.card_unconditional([0], ["vp"], ["matched"])


# ---- records --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records():
    return bench.card_unconditional([1], ["vp", "fourier"], ["matched", "ancestral"])


def test_records_survive_json(records, tmp_path):
    path = tmp_path / "card.json"
    bench.write_json(path, records, command="test")
    assert bench.read_json(path) == records
    path.write_text(json.dumps(records))  # what the command line writes
    assert bench.read_json(path) == records


@pytest.mark.parametrize("content", ["[", '{"records": 1}', '[{"setup": "U"}]', "3"])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"other\.json"):
        bench.read_json(path)
    with pytest.raises(InputError, match="no file"):
        bench.read_json(tmp_path / "none.json")


def test_peers_are_shown_beside_ours(records, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "card_unconditional", lambda steps, **_: records)
    monkeypatch.setattr(bench, "card_restoration", lambda steps, **_: [])
    peer = {**records[0], "library": "azula", "sampler": "zAB", "gain": [], "verdict": "failed", "reason": "no [luck]"}
    path = tmp_path / "peers.json"
    bench.write_json(path, [records[0], peer])
    assert bench.gaussian_card(peers=path) == [*records, peer]


def test_the_table_shows_every_row(records):
    failed = {**records[0], "library": "azula", "gain": [], "variance": [], "verdict": "failed", "reason": "no [luck]"}
    mixed = {**records[0], "gain": [None, 1e9, 1.0, float("inf")], "sampler": "odd"}
    text = printed([*records, failed, mixed], width=200)
    for expected in ("U retrodict vp", "matched", "1.00 1.00 1.00 1.00", "calibrated", "8*", "no [luck]"):
        assert expected in text
    assert "- 1e+09 1.00 inf" in text
    assert "terminal: it starts at a measurement" in text


def test_the_table_loses_nothing_on_a_narrow_terminal(records):
    row = {**records[0], "gain": [0.91, 0.92, 0.93, 0.94, 0.95], "variance": [1.01, 1.02, 1.03, 1.04, 1.05]}
    text = printed([row], width=80)
    assert all(f"{v:.2f}" in text for v in row["gain"] + row["variance"])
    assert "not calibrated" in printed([{**row, "verdict": "not calibrated"}], width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def printed(records, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(records))
    return console.file.getvalue()
