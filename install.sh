#!/usr/bin/env bash
# Makes .venv with everything the demo and the tests need; `make` calls it when it is due.
# Needs Python 3.10 to 3.12 on x86_64 Linux and a package index: no compiler, no root.
set -euo pipefail
cd "$(dirname "$0")"

VENV=.venv
LOG=$VENV/install.log

refuse() {
    echo "install: $*" >&2
    exit 2
}

usable() {
    "$1" -c "import ensurepip, sys, venv; sys.exit(not ((3, 10) <= sys.version_info < (3, 13)
        and sys.implementation.name == 'cpython' and sys.maxsize > 2**32))" >/dev/null 2>&1
}

step() {
    local title=$1
    shift
    echo "  $title"
    if ! "$VENV/bin/python" -m pip install --quiet "$@" >>"$LOG" 2>&1; then
        tail -n 15 "$LOG" >&2
        refuse "pip failed at: $title. Its last lines are above, the rest is in $LOG. Usual" \
               "causes: no way to the package index (set HTTPS_PROXY or PIP_INDEX_URL), a full" \
               "disk (6 GB are needed), a glibc older than 2.28. Then run the same command" \
               "again: what was downloaded is kept"
    fi
}

if [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ]; then
    refuse "the demo and the tests need x86_64 Linux (there are no ROS 2 wheels for anything" \
           "else), this is $(uname -sm); on a robot use ROS 2 from apt and colcon: README.md"
fi

python=
for candidate in python3.11 python3.12 python3.10 python3; do
    # run it: a pyenv shim is on the PATH even when its version is switched off
    if usable "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    refuse "no Python 3.10, 3.11 or 3.12 with its venv module on the PATH (python3 is" \
           "'$(python3 --version 2>&1 | head -n 1)'); install one, for example" \
           "apt install python3.11 python3.11-venv"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
echo "Installing into $VENV with $("$python" --version) (minutes the first time)"
"$python" -m venv --clear "$VENV" ||
    refuse "$python -m venv $VENV failed: is the disk full, or the folder not writable?"

# torch first and alone: resolved with the rest, pip may download several of its builds
step 'PyTorch' --constraint constraints.txt setuptools torch
step 'ROS 2, simulator, model, training and test tools' --constraint constraints.txt \
    --no-build-isolation --editable '.[robot,serve,ros,sim,train,test]'
# its own list of needs asks for the OpenCV that wants libGL; the sim extra names the rest
step 'habitat-lab' --no-deps habitat-lab==0.3.320260507
