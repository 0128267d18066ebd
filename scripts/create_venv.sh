#!/bin/sh
# Makes sure that the folder $1 is a working virtual environment of Python 3.11 or later, with a pip that installs without warnings.
set -eu
venv=$1

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if ! is_recent "$venv/bin/python"; then
    python=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if is_recent "$candidate"; then python=$candidate && break; fi
    done
    if [ -z "$python" ]; then
        echo "Muster needs Python 3.11 or later, and found none. Install one, or name it: make PYTHON=/path/to/python3.12 …" >&2
        exit 1
    fi
    # Debian splits ensurepip from Python; where it is missing, the interpreter's own pip fills the environment.
    "$python" -m venv --clear "$venv" >/dev/null 2>&1 || {
        "$python" -m venv --clear --without-pip "$venv" && "$python" -m pip --python "$venv/bin/python" install --quiet pip
    } || {
        echo "$python can't create a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
fi

# Older ones don't know that the extras html_clean and html-clean are the same, and warn.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pip>=24'
