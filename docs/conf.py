"""Sphinx configuration: Markdown pages by hand, the reference from the docstrings."""

from retrodict._version import __version__

project = "retrodict"
author = "The retrodict authors"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
apidoc_modules = [
    {"path": "../src/retrodict", "destination": "api", "separate_modules": True, "module_first": True},
]

html_theme = "furo"
html_title = f"retrodict {release}"
