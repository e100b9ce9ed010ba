#!/bin/sh
# Usage: environment.sh DIRECTORY CONSTRAINTS REQUIREMENT...
# Create or complete a virtual environment at the versions pinned in CONSTRAINTS.
# May be interrupted and run again: every step finds out by itself what is left to do.
set -eu

directory=$1 constraints=$2
shift 2
base=${PYTHON:-python3}

# The interpreter has to exist and be new enough; say so in one sentence if it is not.
found=$("$base" -c 'import platform; print(platform.python_version())' 2>/dev/null) || found=missing
if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "retrodict needs Python 3.11 or newer, and $base is $found: name another one, for example make PYTHON=python3.12." >&2
    exit 1
fi

python=$directory/bin/python
if ! "$python" -c '' 2>/dev/null; then
    echo "Creating $directory with Python $found."
    "$base" -m venv --clear "$directory"
fi
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null

install() {
    "$python" -m pip install -qq --disable-pip-version-check -c "$constraints" "$@"
}

echo "Installing into $directory (a few minutes the first time): $*"
# torch comes first and alone, at exactly one version: a range would let pip fetch and weigh several very large wheels.
install "$(grep '^torch==' "$constraints")"
# The build tools are pinned as well, so nothing is fetched behind the constraints file.
install hatchling editables
install --no-build-isolation "$@"
