"""Foreign text on the terminal: it is shown, and neither the terminal nor rich obeys it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from retrodict._check import visible
from retrodict.cli.progress import watching
from retrodict.cli.terminal import err, out, plain

PIECES = [*"[]/\\ab#@=\x1b\n\u202e{}* :_", "[/", "[bold]", "\\[", ":smile:", "\udcff"]
WORDS = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


def printed(markup: str) -> str:
    console = Console(file=io.StringIO(), highlight=False, emoji=False, width=500)
    console.print(markup, soft_wrap=True)
    return console.file.getvalue().rstrip("\n")  # type: ignore[attr-defined]


def same(text: str) -> str:
    """Backslashes and brackets that stand together are written as escapes."""
    return text.replace("\\x5b", "[").replace("\\x5c", "\\")


@settings(max_examples=120, deadline=None)
@given(WORDS, WORDS)
def test_two_foreign_words_between_tags_of_ours_are_printed_as_they_are(one, two):
    found = printed(f"[bold red]failed[/] {plain(one)}: {plain(two)}[bold]x[/]")
    assert same(found) == same(f"failed {visible(one)}: {visible(two)}x")


def test_what_a_terminal_would_obey_is_shown():
    assert printed(plain("a\x1b[31mb\r\n\u202ec\x9b2J")) == r"a\x1b[31mb\r\n\u202ec\x9b2J"
    assert printed(plain("x" * 70_000)).count("x") < 5000
    assert printed(plain("[1, 2] größer 日本 ‌ok")) == "[1, 2] größer 日本 ‌ok"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("name", ["[/nope]", "**", ":smile:", "{task}", "\x1b[31m", "[bold"])
def test_a_bar_shows_any_name(name, terminal, monkeypatch):
    monkeypatch.setattr(err, "_force_terminal", terminal)
    with watching() as watch:
        watch(name, 1, 2)
        watch(name, 2, 2)


def test_both_streams_leave_colons_alone():
    for console in (out, err):
        assert console.render_str(plain(":smile:")).plain == ":smile:"
