"""Sphinx configuration: Markdown pages by hand, the reference from the docstrings."""

import re

from sphinx.application import Sphinx

from retrodict._version import __version__

project = "retrodict"
author = "The retrodict authors"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# Names are exported by a package and defined in its modules, so a reference may have two targets.
suppress_warnings = ["ref.python"]
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of torch are not written for this page
# A package exports what its modules define, and each name is described once, where it is defined.
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
apidoc_modules = [
    {"path": "../src/retrodict", "destination": "api", "separate_modules": True, "module_first": True},
]

html_theme = "furo"
html_title = f"retrodict {release}"


def plain(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Make markup of docstrings that are written to be read in an editor.

    Outside backticks `*` and `|` are parts of a formula and a letter after them ends a plural; "name : text" at the
    beginning of a line describes a parameter.
    """
    field = False
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "..", ":")):
            lines[i] = re.sub(r"^(\w+(?:, \w+)*) : ", r":\1: ", line)
        begins = lines[i].startswith(":")
        field = begins or (field and bool(line))
        if field and not begins:
            lines[i] = "    " + lines[i].lstrip()  # a description goes on in the next line
    parts = re.split(r"(`[^`]*`)", "\n".join(lines))
    parts[::2] = [re.sub(r"(?<!\\)([*|])", r"\\\1", part) for part in parts[::2]]
    parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]
    lines[:] = "".join(parts).split("\n")


def setup(app: Sphinx) -> None:
    """Connect before napoleon, whose own markup must stay."""
    app.connect("autodoc-process-docstring", plain, priority=100)
