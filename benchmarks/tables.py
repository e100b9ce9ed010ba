"""Write the figures of the documents from benchmarks/results: docs/figures.md and the marked blocks elsewhere.

    python benchmarks/tables.py

A document holds a block between <!-- NAME:begin --> and <!-- NAME:end -->; everything between is replaced.
"""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(name):
    """Content of a result file, or None."""
    path = RESULTS / name
    content = json.loads(path.read_text()) if path.exists() else None
    return content["records"] if isinstance(content, dict) and "records" in content else content


def table(header, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def missing(command):
    """What stands in for a table whose figures were not measured."""
    return f"Not measured here. Run `{command}`."


def ct(records, short=False):
    """Table of real CT."""
    if records is None:
        return missing("python benchmarks/ct.py")
    rows = []
    for r in records:
        cells = [r["method"], r["calls"] or "", f"{math.sqrt(r['mse_HU2']):.1f}", f"{r['error_over_wiener']:.3f}"]
        if "members" in r:
            cells += [f"{r['mean_over_wiener']:.3f}", f"{r['skill_over_spread']:.2f}"]
            cells += [f"{math.sqrt(r['skill_over_spread']):.2f}", f"{r['seconds_per_member']:.2f}", r["gaussian_gate"]]
        else:
            cells += [""] * 5
        if not short or (r["calls"] in (0, 1, 8, 32) and r["method"] in SHORT):
            rows.append(cells[:6] + cells[6:7] if short else cells)
    header = [
        "method",
        "calls",
        "error, HU rms",
        "error / Wiener",
        "mean / Wiener",
        "skill / spread",
        "SSR",
        "s per member",
        "card",
    ]
    return table(header[: 7 if short else None], rows)


SHORT = ("measured", "Wiener filter", "non-local means", "network, one call", "matched", "ancestral")


def card(records, setup):
    """Table of the Gaussian card of one setup."""
    if records is None:
        return missing("retrodict bench gaussian-card --output benchmarks/results/gaussian-card.json")
    rows = []
    for r in records:
        if r["setup"] != setup or r["steps"] is None or r["steps"] not in (1, 8, 32, 64, 200):
            continue
        numbers = [" ".join("-" if v is None else f"{v:.2f}" for v in r[k]) or "-" for k in ("gain", "variance")]
        rows.append([r["library"], r["process"], r["sampler"], r["steps"], r["nfe"] or "", *numbers, r["verdict"]])
    return table(["library", "process", "sampler", "steps", "NFE", "gain", "variance", "verdict"], rows)


def overhead(records):
    """Table of the overhead of the loop."""
    if records is None:
        return missing(".venv-peers/bin/python benchmarks/overhead.py")
    rows = []
    for r in records:
        pace = f"{r['ms_per_step']:.3f}" if "ms_per_step" in r else ""
        rows.append([r["size"], r.get("batch", ""), r["name"], pace, f"{r['ratio']:.2f}"])
    return table(["pixels a side", "batch", "what", "ms per step", "ratio to the first row of its size"], rows)


def imports(records):
    """Table of import times."""
    if records is None:
        return missing("python benchmarks/imports.py")
    return table(["what", "s beyond torch"], [[r["case"], f"{r['seconds_beyond_torch']:.2f}"] for r in records])


def speed(found):
    """Table of the cost of a call, and what bfloat16 changes."""
    if found is None:
        return missing("python benchmarks/speed.py --json benchmarks/results/speed.json")
    about, rows = found["processor"], []
    for r in found["calls"]:
        share = "" if r["share"] is None else f"{r['share']:.0%}"
        pace = [f"{r['cpu_s']:.3f}", f"{r['cpu_s_per_megapixel']:.1f}", share]
        rows.append([f"{r['size']} x {r['size']}", r["precision"], r["threads"], *pace])
    head = ["pixels", "precision", "threads", "CPU s a call", "CPU s a megapixel", "share of the multiply-add rate"]
    gap = found["difference"]
    return (
        f"{about['name']}, {about['capability']}; `--precision auto` is {about['auto']} here and takes "
        f"{found['auto_over_better']:.2f} of the CPU seconds of the better of the two.\n\n{table(head, rows)}\n\n"
        f"bfloat16 instead of float32 moves the posterior mean by {gap['mean_difference_hu']:.2f} HU rms, "
        f"{gap['ratio']:.4f} of the standard deviation ({gap['sd_hu']:.1f} HU), on "
        f"{gap['side']} x {gap['side']} pixels "
        "of a shipped slice."
    )


def _scatter(values):
    mean = sum(values) / len(values)
    return f"{mean:.2f} +- {math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)):.2f}"


def patients(found, short=False):
    """Error and calibration on patients never seen: mean +- SD between patients, and each of them."""
    if found is None:
        return missing("python benchmarks/patients.py")
    rows = found["patients"]
    names = {
        "rms_hu": "error of the delivered mean, HU rms",
        "delivered_over_wiener": "its square over that of the Wiener filter",
        "mean_over_wiener": "the same for the posterior mean itself",
        "ssr2": "SSR^2, all frequencies",
    }
    summary = [[text, len(rows), _scatter([r[key] for r in rows])] for key, text in names.items()]
    for band in range(len(rows[0]["bands"])):
        low, high = 0.1 * band, 0.1 * (band + 1)
        summary.append([f"SSR^2, {low:.1f}-{high:.1f} /mm", len(rows), _scatter([r["bands"][band] for r in rows])])
    head = table(["figure", "patients", "mean +- SD between patients"], summary)
    if short:
        return head
    each = [
        [r["patient"], f"{r['noise_hu']:.1f}", f"{r['rms_hu']:.1f}", f"{r['mean_over_wiener']:.2f}", f"{r['ssr2']:.2f}"]
        for r in rows
    ]
    return head + "\n\n" + table(["patient", "own noise, HU", "rms, HU", "mean / Wiener", "SSR^2"], each)


INSTRUMENTS = {
    "paper": "Tivnan et al. 2023, 170 HU",
    "soft-12": "soft kernel, 12 HU",
    "standard-30": "standard kernel, 30 HU",
    "sharp-60": "sharp kernel, 60 HU",
    "white-20": "white noise, 20 HU, no blur",
}
"""Names of `benchmarks/scanners.py` in words."""


def _between(rows, *keys):
    """Mean +- SD between patients of a figure; figures that a patient has none of (NaN) are left out."""
    values = []
    for row in rows:
        for key in keys:
            row = row[key]
        values.append(row)
    values = [v for v in values if not math.isnan(v)]
    return _scatter(values) if len(values) > 1 else ""


def _pixels(rows):
    """Pixel spacing of the crops, mm."""
    low, high = (f"{f(r['spacing'] for r in rows):.2f}" for f in (min, max))
    return low if low == high else f"{low} to {high}"


def new_patients(found, full=False):
    """The model of every instrument on patients never seen: a row for each instrument and pixel spacing."""
    if found is None:
        return missing("python benchmarks/new_patients.py")
    sizes, rows, more, tissues, own = ("2 mm", "5 mm", "10 mm", "20 mm"), [], [], [], []
    for label, each in found["rows"].items():
        if not each:
            continue
        name = label.split()[0]
        start = [INSTRUMENTS.get(name, name), _pixels(each), len(each)]
        rows.append([*start, *(_between(each, key) for key in ("rms_hu", "over_wiener", "ssr2", "coverage")),
                     *(_between(each, "discs", size) for size in sizes)])  # fmt: skip
        bands = range(len(each[0]["bands"]))
        shares = [sum(r["shares"][band] for r in each) / len(each) for band in bands]
        cells = [_between(each, "bands", band) for band in bands]
        cells = [c if share >= 0.01 else f"({c})" for c, share in zip(cells, shares, strict=True)]
        more.append([*start[:2], *cells])
        own.append([*start, *_of_own_noise(each, "ssr2"), *_of_own_noise(each, "bands", -1)])
        if "expected" in each[0]:
            kinds = ("tissue", "of_truth", "expected")
            tissues.append([*start[:2], *(_tissue(each, kinds, t) for t in ("lung", "fat", "soft", "bone"))])
    head = ["instrument", "pixels, mm", "patients", "error, HU rms", "error^2 / Wiener", "SSR^2", "90 %: pixels"]
    text = table([*head, *(f"discs of {size}" for size in sizes)], rows)
    if not full:
        return text
    fifths = [f"SSR^2, {i / 5:g}-{(i + 1) / 5:g} Nyquist" for i in range(5)]
    text += "\n\n" + table(["instrument", "pixels, mm", *fifths], more)
    words = (
        "How much of the scatter between patients is the noise of their truth, which no posterior of the measurement "
        "holds: rank correlation of SSR^2 with the noise of the scan that stands for the truth (`noise_hu` of the "
        "index), and deviation of SSR^2 between patients before and after a line in the log of that noise."
    )
    head = [
        f"SSR^2, {where}: {what}" for where in ("all", "0.8-1 Nyquist") for what in ("rank correlation", "SD, left")
    ]
    text += "\n\n" + textwrap.fill(words, 120) + "\n\n" + table(["instrument", "pixels, mm", "patients", *head], own)
    if not tissues:
        return text
    words = (
        "Coverage of 90 % intervals by tissue of the restored mean, which who reads an interval knows: 0.90 is right. "
        "In brackets by tissue of the truth, and what an exact posterior would show there (the members in their own "
        "classes): who picks pixels by their truth picks errors."
    )
    head = ["instrument", "pixels, mm", "lung", "fat", "soft tissue", "bone"]
    return text + "\n\n" + textwrap.fill(words, 120) + "\n\n" + table(head, tissues)


def _of_own_noise(rows, key, part=None):
    """Rank correlation with the own noise of the truth, and deviation without and with a line in its log."""
    pairs = [(r["noise_hu"], r[key] if part is None else r[key][part]) for r in rows]
    noise, value = np.array([p for p in pairs if np.isfinite(p).all()]).T
    line = np.polyval(np.polyfit(np.log(noise), value, 1), np.log(noise))
    left = np.sqrt(((value - line) ** 2).sum() / (len(value) - 2))
    return f"{spearmanr(noise, value).statistic:+.2f}", f"{value.std(ddof=1):.2f}, {left:.2f}"


def _tissue(rows, kinds, name):
    """Coverage in a tissue of the mean, and in brackets in one of the truth over that of an exact posterior."""
    shown, truth, expected = (_between(rows, kind, name) for kind in kinds)
    return f"{shown} ({truth.split(' ')[0]}, {expected.split(' ')[0]})" if shown else ""


def _of_patients(rows, key):
    """Mean +- SD between patients of the mean over a patient's pixel spacings."""
    own = {}
    for row in rows:
        own.setdefault(row["patient"], []).append(row[key])
    return _scatter([sum(v) / len(v) for v in own.values()])


def instruments(found):
    """One network for every instrument against specialists of equal budget."""
    if found is None:
        return missing("python benchmarks/instruments.py OUT --steps 1200")
    lines = _price_lines(found["price"], "The general network") if found.get("price") else []
    if lines:
        for key, what in (("white_told_the_std", "the std of a pixel alone"), ("white_told_the_clock", "the clock")):
            lines.append(f"A network of white noise that is told {what}, over the general one: {_priced(found[key])}.")
    return _networks(found["rows"], lines)


def instruments_started(found):
    """The same where every network starts from the weights of one model."""
    if found is None:
        return missing("python benchmarks/instruments.py OUT --start ct --steps 600")
    lines = _price_lines(found["price"], "The general network, which went on too,")
    shipped = found["price_of_start"]
    lines.append(
        f"`{found['setup']['start']}` as it is over each specialist on its own instrument: {_priced(shipped['own'])}; "
        f"{shipped['mean']:+.1f} % in the mean."
    )
    lines.append(f"What going on over all instruments changes: {_priced(found['going_on'])}.")
    return _networks(found["rows"], lines)


def started_short(found):
    """What going on for one instrument alone gains over the model as it is, and over going on for all."""
    if found is None:
        return missing("python benchmarks/instruments.py OUT --start ct --steps 600")
    patients = len({row["patient"] for row in next(iter(found["rows"].values()))})
    columns = [found["price_of_start"], found["price"]]
    rows = [[INSTRUMENTS.get(n, n), *(f"{c['own'][n][0]:+.1f} % ± {c['own'][n][1]:.1f}" for c in columns)]
            for n in found["price"]["own"]]  # fmt: skip
    rows.append(["mean", *(f"{c['mean']:+.1f} %" for c in columns)])
    head = ["squared error over that of the specialist", f"`{found['setup']['start']}` as it is", "gone on for all"]
    return f"{table(head, rows)}\n\n{patients} validation patients, paired; ± SD between patients."


def _priced(found):
    return ", ".join(f"{n} {p:+.1f} % +- {sd:.1f}" for n, (p, sd) in found.items())


def _price_lines(priced, who):
    """Sentences on a network against the specialists."""
    off = ", ".join(f"{n} {o['mean']:+.1f} % (better on {o['better']} of {o['of']})" for n, o in priced["off"].items())
    own, mean = _priced(priced["own"]), f"{priced['mean']:+.1f} % in the mean"
    return [
        f"{who} over each specialist on its own instrument: {own}; {mean}.",
        f"Over each specialist on the others' instruments: {off}.",
    ]


def _networks(rows, lines):
    """Tables of errors and SSR^2, network x instrument, and sentences."""
    names = list(dict.fromkeys(label.split(" | ")[1] for label in rows))
    networks = list(dict.fromkeys(label.split(" | ")[0] for label in rows))
    whole = [n for n in networks if all(f"{n} | {name}" in rows for name in names)]

    def matrix(key):
        return table(["network", *(INSTRUMENTS.get(n, n) for n in names)],
                     [[n, *(_of_patients(rows[f"{n} | {name}"], key) for name in names)] for n in whole])  # fmt: skip

    words = "\n\n".join(textwrap.fill(line, 120) for line in lines)
    return f"Squared error over Wiener:\n\n{matrix('error')}\n\nSSR^2:\n\n{matrix('ssr2')}\n\n{words}".rstrip()


def page():
    """docs/figures.md."""
    peers, own = load("peers-gaussian-card.json"), load("gaussian-card.json")
    return f"""# Figures

Written by `python benchmarks/tables.py` from `benchmarks/results`; the command above each table makes its file.
Machines differ: compare within a table.

## The model of every instrument, on patients never seen

`python benchmarks/new_patients.py --instant`, then `--docs` - `ct`, by one call, on one crop of 128 x 128 pixels of
every validation patient, at its own pixels and two coarser ones, measured by instruments whose kernels are other
functions than those of its training; 18 of the patients set the factors of its error variance. Mean +- SD between
patients. SSR^2: squared error over stated variance; 1 is calibrated, below 1 the spread is too wide. 90 %: how many
pixels, and means of discs, lie in their 90 % interval. In brackets: bands with less than 1 % of the error.

<!-- new-patients:begin -->
{new_patients(load("new_patients.json"), full=True)}
<!-- new-patients:end -->

By the default, 8 members of 8 calls each: `python benchmarks/new_patients.py --json
benchmarks/results/new_patients_8_calls.json`, then `--docs`. The instrument of 170 HU has 284 HU at 0.55 mm, beyond
what the model was trained on; `restore` refuses it there by name. Means of ratios at the highest frequencies of small
pixels are those of one or two patients with hardly any power there: see the deviations.

<!-- new-patients-8:begin -->
{new_patients(load("new_patients_8_calls.json"), full=True)}
<!-- new-patients-8:end -->

## One network for every instrument, against specialists of equal budget

`python benchmarks/instruments.py OUT --steps 1200 --set training.batch=64 --set data.patch=[64,64] --set
training.learning_rate=1.5e-3 --no-processes`, then OUT/instruments.json to `benchmarks/results` - one crop of 128 x 128
pixels of every validation patient at three pixel spacings, by one call. Networks of one size, trained (on one H100) on
the same patients, steps, batches and seeds; only the law of the observations differs. The instruments are not in the
law of the general network. Mean +- SD between patients. Rows: network; columns: instrument of the measurement.
SSR^2 is that of factors over the law alone, as the benchmark had them then; with the factors in use, which it takes
now, it was not measured again. Errors do not depend on them.

{instruments(load("instruments.json"))}

Read: at this short budget the price of generality is above the 3 % that were asked for, and two specialists of ramp
noise serve each other's instruments as well as the general network does. What is dear is another thing: a network that
is told one number takes colored noise for white, and is worse and far too sure of itself; the same weights told the
clock come close.

### The shipped model, against specialists that start from it

`python benchmarks/instruments.py OUT --start ct --steps 600 --set training.batch=32 --set data.patch=[64,64] --set
training.learning_rate=5e-4`, then OUT/instruments.json to `benchmarks/results/instruments_started.json` - measured as
above. `ct` was trained for far longer than the networks above, and specialists of that budget would cost as much each.
Here every network starts from the weights of `ct` and goes on for 600 steps of 32 patches: `general` over the law of
all instruments, each specialist over its own instrument alone. `start` is `ct` as it ships. Every spread is calibrated
over the law of its network on the validation patients; what the record of `ct` has beside (the factors in use) is left
out here, and stands in the first table of this page.

{instruments_started(load("instruments_started.json"))}

Read: with the training of the shipped model behind all of them the price of generality is within the 3 % that were
asked for in the mean, and a little above them on the instrument of 170 HU, where it was a fifth at the short budget.
Going on over all instruments changes next to nothing, so what a specialist gains is due to its law, not to the steps.
Off its own instrument a specialist of `paper` or `soft-12` is behind; those of the two ramp noises still serve each
other's instruments as well as the general network does, within 1 %. What this does not say: the steps of their own are
few beside those of `ct` before, so a specialist that has the whole budget for its one instrument may gain more; that
was not measured, and the figure is the gain of going on, not its limit.

## The model of one instrument, on patients never seen

`python benchmarks/patients.py` - `ct-simulated`, one crop of 128 x 128 pixels of 1 mm of every validation
patient, 8 members of 8 calls. SSR^2: squared error of the ensemble mean over (1 + 1/K) times the ensemble variance;
below 1 the spread is too wide.

{patients(load("patients.json"))}

## Real CT, one patient that was not in training

`python benchmarks/ct.py` - `ct-simulated`, two slices of one patient, 416 x 416 pixels of 1 mm, one noise draw each,
so no error bars: read them beside the scatter between patients above. Measured with mirrored margins, before
they were drawn from their law (the outermost pixels differ, 4 % of an image of this size). The rows of equal budget
need the models of `retrodict fit configs/ct-fourier.yaml` and `retrodict fit configs/ct-scalar.yaml`.

{ct(load("ct.json"))}

error / Wiener: squared error of the ensemble mean over that of the Wiener filter. mean / Wiener: the same for the
posterior mean itself (the share spread / K that K members add is taken off). skill / spread: squared error of the
ensemble mean over (1 + 1/K) times the ensemble variance; 1 is calibrated, above 1 means too little spread; SSR is its
square root. card: whether `retrodict.gate` lets the rule report an uncertainty at this number of calls.

## Gaussian card, restoration (setup R)

`make bench-peers` - gain and variance over those of the exact posterior, five frequency bands from low to high.
Rows of other libraries are Monte Carlo with 256 samples and an exact denoiser; they are given the whitened problem.

{card(peers or own, "R")}

## Gaussian card, unconditional (setup U)

`make bench-peers` - four coefficients with variances 0.04, 0.25, 1, 4.

{card(peers or own, "U")}

## Gaussian card, every process and rule

`retrodict bench gaussian-card --output benchmarks/results/gaussian-card.json`

{card(own and [r for r in own if r["library"] == "retrodict"], "R")}

## Speed of a call

`python benchmarks/speed.py --json benchmarks/results/speed.json` - the network of `ct-simulated`, one image.

{speed(load("speed.json"))}

## Overhead of the sample loop

`.venv-peers/bin/python benchmarks/overhead.py` - batches of 1 and 8, one thread, medians, time inside the denoiser
taken off.

{overhead(load("overhead.json"))}

## Import time

`python benchmarks/imports.py`

{imports(load("imports.json"))}
"""


def phantom(found):
    """Tables of metrology."""
    if found is None:
        return missing("python benchmarks/phantom.py --pictures docs/images")
    known = [
        [r["object"], r["trials"], f"{r['largest_mean_error']:.4f}", f"{r['largest_sd']:.4f}",
         "" if r["band_holds_truth"] is None else f"{r['band_holds_truth']:.1%}"]
        for r in found["synthetic"]
    ]  # fmt: skip
    rows = []
    for r in found["real"]:
        if "mtf50" in r:
            bands = [f"{v['value']:.3f} [{v['lower']:.3f}, {v['upper']:.3f}]" for v in (r["mtf50"], r["mtf10"])]
            rows.append([r["set"], "", "", "", *bands])
        else:
            rows.append([r["set"], r["regions"], f"{r['noise_sd']:.3g}", f"{r['average_frequency']:.3g}", "", ""])
    head = ["object", "draws", "largest bias", "largest sd", "95 % band holds the truth"]
    wide = ["scan", "regions", "noise, HU", "average frequency, 1/mm", "MTF 50 %, 1/mm", "MTF 10 %, 1/mm"]
    return table(head, known) + "\n\n" + table(wide, rows)


def patches(records):
    """Tables of the patch-denoising experiment, one a set."""
    if records is None:
        return missing("python benchmarks/patches.py")
    parts = []
    for name in dict.fromkeys(r["set"] for r in records):
        rows = []
        for r in records:
            if r["set"] != name:
                continue
            error = f"{r['psnr']:.2f} +- {r['psnr_se']:.2f}"
            law = f"{r['law_dB']:.2f}" if r.get("law_dB") else ""
            ratio = f"{r['ssr']:.2f}" if "ssr" in r else ""
            pace = f"{1000 * r['seconds']:.1f}"
            rows.append([r["method"], r["images"], r["calls"] or "", error, f"{r['clipped']:.2f}", law,
                         f"{r['ssim']:.3f} +- {r['ssim_se']:.3f}", ratio, pace])  # fmt: skip
        head = ["method", "images", "calls", "PSNR, dB", "clipped", "law, dB", "SSIM", "SSR", "ms an image"]
        parts.append(f"**{name}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def patches_reading(records):
    """What had to be reached, with the figures that decide it."""
    if records is None:
        return missing("python benchmarks/patches.py")
    best = {}
    for r in records:
        place = r["set"], r["method"]
        if place not in best or r["images"] > best[place]["images"]:
            best[place] = r
    lines = []
    for name in dict.fromkeys(r["set"] for r in records):
        mean, drawn, raw = (best.get((name, m)) for m in (
            "network, one call (mean)", "network, sample (matched)", "noisy"))  # fmt: skip
        if mean is None or drawn is None:
            continue
        fall = mean["psnr"] - drawn["psnr"]
        text = f"- **{name}**: mean mode {mean['psnr']:.2f} dB, a sample {fall:.2f} dB below it (law 3.01)"
        if raw is not None:
            text += f", SSIM {mean['ssim'] - raw['ssim']:+.3f} over the noisy image"
        lines.append(text + ".")
    return "\n".join(lines)


def fourier(records):
    """Table of the Fourier-diffusion experiment."""
    if records is None:
        return missing("python benchmarks/fourier_diffusion.py")
    rows = []
    for r in sorted(records, key=lambda r: (r["calls"] > 0, r["method"], r["calls"])):
        if not r["calls"]:
            rows.append([r["method"].replace(" |", ":"), "", "", f"{r['bias2_corrected']:.0f}", "", "", ""])
            continue
        numbers = [f"{r[k]:.0f}" for k in ("mse", "bias2_corrected", "bias2_corrected_sd", "variance_corrected")]
        rows.append([r["method"].replace(" |", ":"), r["calls"], *numbers, f"{r['ssr']:.2f}"])
    return table(["process, conditioning, sampler", "calls", "MSE", "bias^2", "+-", "variance", "SSR"], rows)


def fourier_reading(records):
    """The claims of the paper, each with the figures that decide it."""
    if records is None:
        return missing("python benchmarks/fourier_diffusion.py")
    f = {(r["method"], r["calls"]): r for r in records if r["calls"]}
    own, peer = "Fourier, terminal | matched", "scalar, external | matched"
    em, em_peer = "Fourier, terminal | Euler-Maruyama", "scalar, external | Euler-Maruyama"
    most = max(n for m, n in f if m == em_peer)
    few = [n for n in (4, 8, 16, 32) if (em, n) in f and (em_peer, n) in f]

    def pair(a, b, key):
        return f"{f[a][key]:.0f} against {f[b][key]:.0f}"

    lines = [
        "- **Fourier better than scalar at few Euler-Maruyama steps: holds.** MSE "
        + ", ".join(f"{pair((em, n), (em_peer, n), 'mse')} at {n}" for n in few) + ".",
        "- **Fourier with 8 steps like scalar with 128 to 1024, both by Euler-Maruyama:** MSE "
        f"{f[em, 8]['mse']:.0f} at 8 against {f[em_peer, most]['mse']:.0f} at {most}; error of the mean "
        f"{f[em, 8]['bias2_corrected']:.0f} against {f[em_peer, most]['bias2_corrected']:.0f}.",
        "- **Better at every step count, with one good sampler for both:** does not hold. With `matched`, bias^2 "
        + ", ".join(f"{pair((own, n), (peer, n), 'bias2_corrected')} at {n}" for n in few) + " (Fourier, scalar).",
        f"- **Goal of this project:** our Fourier process with our sampler at 8 calls against the scalar one by "
        f"Euler-Maruyama at {most}: bias^2 {pair((own, 8), (em_peer, most), 'bias2_corrected')}, ratio "
        f"{f[own, 8]['bias2_corrected'] / f[em_peer, most]['bias2_corrected']:.3f}; SSR {f[own, 8]['ssr']:.2f} against "
        f"{f[em_peer, most]['ssr']:.2f}; MSE {pair((own, 8), (em_peer, most), 'mse')}; "
        f"{most // 8} times fewer calls. The error of the mean is a little larger, the spread nearer to right; MSE of "
        "single samples is larger because the peer spreads too little.",
        "- **Why.** With the exact score the closed forms give the discretization a factor of about 2 in MSE at 4 "
        "steps and at most 6 % from 16 on. The rest of the gap of Euler-Maruyama: a scalar chain starts from "
        "pure noise, where its steps are longest, and Euler-Maruyama overdisperses; a sampler that integrates "
        "the Gaussian part exactly removes most of it for either process.",
    ]  # fmt: skip
    return "\n".join(lines)


def projectors(rows):
    """Table of what projections cost, and how many times those of this package."""
    if rows is None:
        return missing("python benchmarks/projectors.py")
    own = {r["size"]: r for r in rows if r["tool"] == "retrodict"}
    out = []
    for r in rows:
        name = [f"{r['size']}² x {r['views']}", r["tool"]]
        if "absent" in r:
            out.append([*name, r["absent"], "", "", "", ""])
            continue
        costs = [f"{r[k]:.3f} s ({r[k] / own[r['size']][k]:.1f}x)" for k in ("forward_s", "adjoint_s")]
        rest = [f"{r['first_s']:.1f} s", f"{r['adjoint_error']:.0e}", f"{r['memory_gb']:.1f} GB"]
        out.append([*name, *costs, *rest])
    return table(["problem", "package", "forward", "adjoint", "first use", "adjoint error", "memory"], out)


def replace_block(path, name, text):
    """Put `text` between the marks NAME:begin and NAME:end of a document that has them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = path.read_text() if path.exists() else ""
    if begin in content:
        head, rest = content.split(begin, 1)
        tail = rest.split(end, 1)[1]
        path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main():
    """Everything."""
    docs = ROOT / "docs"
    (docs / "figures.md").write_text(page())
    for path in (ROOT / "README.md", ROOT / "src" / "retrodict" / "assets" / "MODEL_CARD.md"):
        replace_block(path, "figures", ct(load("ct.json"), short=True))
        replace_block(path, "patients", patients(load("patients.json"), short=True))
        replace_block(path, "new-patients", new_patients(load("new_patients.json")))
    replace_block(docs / "howto-phantom-to-report.md", "phantom", phantom(load("phantom.json")))
    replace_block(docs / "howto-train.md", "instruments-started", started_short(load("instruments_started.json")))
    replace_block(docs / "physics.md", "projectors", projectors(load("projectors.json")))
    experiment = load("fourier-diffusion.json")
    replace_block(docs / "experiment-fourier-diffusion.md", "fourier", fourier(experiment))
    replace_block(docs / "experiment-fourier-diffusion.md", "fourier-reading", fourier_reading(experiment))
    replace_block(docs / "experiment-patch-denoising.md", "patches", patches(load("patches.json")))
    reading = patches_reading(load("patches.json"))
    replace_block(docs / "experiment-patch-denoising.md", "patches-reading", reading)
    print("docs")


if __name__ == "__main__":
    main()
