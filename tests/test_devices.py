"""The default device of the caller changes nothing: every tensor of the package is made on a device that is named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models import make_model, scan
from objects import make_process
from retrodict import make_plan, sample, start_state
from retrodict.processes import PROCESSES
from retrodict.samplers.plan import make_grid
from retrodict.tasks.restore import restore

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "retrodict"
FACTORIES = {
    *("tensor", "as_tensor", "asarray", "scalar_tensor", "ones", "zeros", "full", "empty", "eye", "arange", "linspace"),
    *("logspace", "rand", "randn", "randint", "randperm", "fftfreq", "rfftfreq", "hann_window", "hamming_window"),
    *("tril_indices", "triu_indices"),
}


def unnamed(source: str) -> Iterator[str]:
    """Calls of torch that make a tensor on the default device."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FACTORIES:
            owner = ast.unparse(node.func.value)
            named = any(k.arg == "device" or (k.arg is None and "settings" in ast.unparse(k)) for k in node.keywords)
            if owner in ("torch", "torch.fft") and not named:
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_every_tensor_is_made_on_a_named_device():
    found = {str(path.relative_to(PACKAGE)): list(unnamed(path.read_text())) for path in PACKAGE.rglob("*.py")}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_a_call_without_a_device_is_found():
    assert list(unnamed("torch.ones(3)")) == ["line 1: torch.ones(3)"]
    assert list(unnamed("torch.fft.fftfreq(3, d=1.0)"))
    assert not list(unnamed("torch.ones(3, device=x.device); x.new_ones(3); torch.ones_like(x)"))


@pytest.fixture
def elsewhere():
    """A default device on which nothing can be computed."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def test_an_image_is_restored_as_ever(tmp_path, elsewhere):
    with torch.device("cpu"):
        make_model(tmp_path, zero=False)
        image = scan((48, 44))
        expected = restore(image, model=tmp_path / "model", samples=2, steps=1)
    result = restore(image, model=tmp_path / "model", samples=2, steps=1)
    assert torch.equal(result.mean.values, expected.mean.values)
    assert torch.equal(result.sd.values, expected.sd.values)


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_is_sampled_as_ever(name, elsewhere):
    from retrodict.denoisers.denoiser import GaussianDenoiser

    def run() -> torch.Tensor:
        process = make_process(name, (8,))
        variance = torch.ones(process.basis.shape, dtype=torch.float64, device="cpu")
        denoiser = GaussianDenoiser(process, spectrum=variance)
        seeds = torch.arange(2, device="cpu")
        plan = make_plan("matched", process, make_grid(process, 2, "time", spectrum=variance), variance)
        y = torch.zeros(2, 1, 8, dtype=torch.float64, device="cpu")
        needed = process.pairing.kind != "none" or process.anchored
        start = start_state(process, seeds, (1, 8), measurement=y if needed else None, spectrum=variance)
        return sample(denoiser, plan, start, seeds=seeds, cond=process.pairing.cond(y)).x

    with torch.device("cpu"):
        expected = run()
    assert torch.equal(run(), expected)
