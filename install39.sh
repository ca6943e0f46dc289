#!/usr/bin/env bash
# Makes .venv39 for the tests of the environment server, which run it under a Python 3.9.
# Where there is none, or its packages cannot be had, the tests take the Python of .venv.
set -uo pipefail
cd "$(dirname "$0")"

VENV=.venv39
LOG=$VENV/install.log

# pyenv may have one that is switched off
if command -v pyenv >/dev/null; then
    PYENV_VERSION=$(pyenv versions --bare | grep -m 1 '^3\.9\.' || true)
    [ -n "$PYENV_VERSION" ] && export PYENV_VERSION || unset PYENV_VERSION
fi
# run it: that it is on the PATH says nothing with pyenv
if ! python3.9 -c 'import ensurepip, venv' >/dev/null 2>&1; then
    echo 'No python3.9 here: the environment server is tested under the Python of .venv only.'
    mkdir -p "$VENV" && touch "$VENV/installed"
    exit 0
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
echo "Installing into $VENV with $(python3.9 --version)"
python3.9 -m venv --clear "$VENV" || exit 2
pip() { "$VENV/bin/python" -m pip --quiet install "$@" >>"$LOG" 2>&1; }
# what habitat-lab and the embedded simulator import; habitat-lab itself as in install.sh
if pip --constraint constraints-py39.txt numpy opencv-python-headless gym numpy-quaternion \
        attrs hydra-core omegaconf imageio scipy tqdm numba shapely trimesh pillow msgpack &&
    pip --no-deps habitat-lab==0.3.320260507
then
    touch "$VENV/installed"
else
    tail -n 5 "$LOG" >&2
    echo "The packages for Python 3.9 could not be installed ($LOG has it all): the environment" \
         'server is tested under the Python of .venv only. The next make test tries again.' >&2
    rm -rf "$VENV/bin"
fi
