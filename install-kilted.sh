#!/usr/bin/env bash
# Makes .venv-kilted, in which the smoke tests run on a newer ROS 2 than that of .venv: the wheels
# of Kilted, the simulator, and neither torch nor transformers. `make test` calls it when it is due.
set -euo pipefail
cd "$(dirname "$0")"

VENV=.venv-kilted
LOG=$VENV/install.log
python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
echo "Installing into $VENV with $("$python" --version)"
"$python" -m venv --clear "$VENV"
grep -v '^ros-' constraints.txt >"$VENV/constraints.txt"
pip() { "$VENV/bin/python" -m pip --quiet install "$@" >>"$LOG" 2>&1; }
# what the embedded simulator, the ROS nodes and the tests import; habitat-lab as in install.sh
if ! pip --constraint "$VENV/constraints.txt" --constraint constraints-kilted.txt setuptools \
        'ros-kilted-rclpy[fastrtps]' ros-kilted-std-msgs ros-kilted-sensor-msgs \
        ros-kilted-geometry-msgs ros-kilted-nav-msgs ros-kilted-std-srvs \
        ros-kilted-diagnostic-msgs numpy opencv-python-headless PyYAML gym numpy-quaternion attrs \
        hydra-core omegaconf imageio imageio-ffmpeg scipy tqdm numba shapely trimesh pillow \
        msgpack tokenizers pytest pytest-timeout psutil ||
    ! pip --no-deps habitat-lab==0.3.320260507
then
    tail -n 15 "$LOG" >&2
    echo "install-kilted: pip failed; its last lines are above, the rest is in $LOG. Usual causes:" \
         'no way to the package index, a full disk (1 GB is needed). Then run make test again' >&2
    exit 2
fi
