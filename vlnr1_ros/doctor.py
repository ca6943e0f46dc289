"""vlnr1 doctor: what is installed, what is missing, what to do about it.

    vlnr1 doctor
    vlnr1 doctor --server 'http://gpu:8000/v1?card=FOLDER'

Ends with 0 unless something that is installed is broken. Imports nothing heavy, so that it also
runs where everything is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vlnr1_ros import __version__, resources
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError

OK, MISSING, WRONG, NOTE = 'ok', 'missing', 'WRONG', 'note'

# what each visitor needs: (module, distribution that brings it)
NEEDS = {
    'model': [('torch', 'torch'), ('transformers', 'transformers'), ('peft', 'peft'),
              ('cv2', 'opencv-python-headless'), ('PIL', 'pillow')],
    'recordings': [('rosbags', 'rosbags')],
    'ROS 2': [('rclpy', 'ros-jazzy-rclpy'), ('nav_msgs', 'ros-jazzy-nav-msgs'),
              ('diagnostic_msgs', 'ros-diagnostic-msgs')],
    'simulator': [('habitat', 'habitat-lab'), ('numba', 'numba'), ('shapely', 'shapely'),
                  ('trimesh', 'trimesh'), ('hydra', 'hydra-core'),
                  ('imageio_ffmpeg', 'imageio-ffmpeg')],
    'training': [('trl', 'trl'), ('accelerate', 'accelerate'), ('datasets', 'datasets')],
}
REMEDIES = {
    'model': "pip install 'vlnr1_ros[robot]'",
    'recordings': "pip install 'vlnr1_ros[robot]', or [remote]",
    'ROS 2': "source /opt/ros/DISTRO/setup.bash, or pip install 'vlnr1_ros[ros]' (x86_64 Linux)",
    'simulator': "pip install 'vlnr1_ros[sim]', then pip install --no-deps habitat-lab",
    'training': "pip install 'vlnr1_ros[train]'",
}
FREE_GB = 2
# raw VGA images need more than the kernel's default, or half of them are lost
SOCKET_BUFFER_BYTES = 2_000_000


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` says what to do unless the state is ok."""

    about: str
    state: str
    what: str
    remedy: str = ''


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_python() -> Finding:
    text = f'{platform.python_version()} on {platform.system()} {platform.machine()}'
    if sys.version_info < (3, 10):
        return Finding('python', WRONG, text, 'Python 3.10 or newer is needed')
    return Finding('python', OK, text)


def check_packages() -> list[Finding]:
    """One finding for each group of packages in NEEDS."""
    findings = []
    for group, needs in NEEDS.items():
        missing = [name for module, name in needs if importlib.util.find_spec(module) is None]
        have = ', '.join(f'{name} {version_of(name)}' for _, name in needs
                         if name not in missing and version_of(name))
        if missing:
            findings.append(Finding(group, MISSING, ', '.join(missing), REMEDIES[group]))
        else:
            findings.append(Finding(group, OK, have or 'installed without pip'))
    return findings


def check_opencv() -> list[Finding]:
    """Several OpenCV packages share one module: of different versions they break each other."""
    versions = {name: version_of(name) for name in (
        'opencv-python', 'opencv-python-headless', 'opencv-contrib-python',
        'opencv-contrib-python-headless') if version_of(name)}
    text = ', '.join(f'{name} {version}' for name, version in versions.items())
    if len(set(versions.values())) > 1:
        return [Finding('opencv', WRONG, text, 'keep one: pip uninstall the others, then '
                        'pip install --force-reinstall the one kept')]
    if any(int(version.split('.')[0]) >= 5 for version in versions.values()):
        return [Finding('opencv', WRONG, text, "habitat-lab fails with OpenCV 5: pip install "
                        "'opencv-python-headless<5'")]
    return []


def check_simulator() -> Finding:
    if importlib.util.find_spec('habitat_sim') is not None:
        return Finding('habitat-sim', OK, 'found, will be used')
    return Finding('habitat-sim', NOTE, 'not installed: the embedded simulator is used instead',
                   'only for Matterport3D and the like: conda install habitat-sim '
                   '-c conda-forge -c aihabitat')


def check_gpu() -> Finding:
    if shutil.which('nvidia-smi') or Path('/dev/nvidia0').exists():
        return Finding('gpu', OK, 'an NVIDIA driver is there')
    return Finding('gpu', NOTE, 'none: models/nano runs on the CPU; larger models need one, here '
                   'or on another machine')


def check_ros_environment() -> list[Finding]:
    """Settings of the shell that change what ROS does."""
    findings = []
    if os.environ.get('RMW_IMPLEMENTATION') and version_of('ros-jazzy-rclpy'):
        if os.environ['RMW_IMPLEMENTATION'] != 'rmw_fastrtps_cpp':
            findings.append(Finding('rmw', WRONG, os.environ['RMW_IMPLEMENTATION'],
                                    'the ROS 2 wheels bring Fast DDS only: '
                                    'unset RMW_IMPLEMENTATION'))
    if '/opt/ros/' in os.environ.get('PYTHONPATH', '') and version_of('ros-jazzy-rclpy'):
        findings.append(Finding('pythonpath', WRONG, 'a ROS 2 from apt and ROS 2 wheels at once',
                                'use a shell in which /opt/ros was not sourced'))
    buffer = Path('/proc/sys/net/core/rmem_max')
    if buffer.is_file() and int(buffer.read_text()) < SOCKET_BUFFER_BYTES:
        findings.append(Finding(
            'socket buffer', NOTE, f'{buffer.read_text().strip()} bytes: large raw images over '
            'best effort may be lost', 'use compressed images, or raise net.core.rmem_max'))
    return findings


def check_nano() -> Finding:
    try:
        card = NavigationCard.load(resources.shipped('models/nano'))
    except UserError as error:
        return Finding('models/nano', MISSING, str(error), 'make nano')
    return Finding('models/nano', OK, f'turns {card.action_set.turn_deg:g} degrees, plans '
                   f'{card.horizon} actions, executes {card.execute}')


def check_disk() -> Finding:
    free_gb = shutil.disk_usage('.').free / 1e9
    text = f'{free_gb:.1f} GB free in the working directory'
    if free_gb < FREE_GB:
        return Finding('disk', WRONG, text, f'free some space: at least {FREE_GB} GB')
    return Finding('disk', OK, text)


def check_server(url: str) -> Finding:
    """Whether the server of a remote policy answers."""
    from vlnr1_ros.policy.remote import Server

    try:
        server = Server.parse(url)
        models = server.models()
    except UserError as error:
        return Finding('server', WRONG, str(error), 'start it, open its port, correct the URL')
    return Finding('server', OK, f'{server.base} answers'
                   + (f', it has {", ".join(models)}' if models else ''))


def examine() -> list[Finding]:
    return [check_python(), *check_packages(), *check_opencv(), check_simulator(), check_gpu(),
            *check_ros_environment(), check_nano(), check_disk()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='vlnr1 doctor', description=__doc__.split('\n\n')[0])
    parser.add_argument('--server', metavar='URL', help='of a remote policy: does it answer?')
    args = parser.parse_args(argv)
    print(f'vlnr1_ros {__version__} in {Path(__file__).resolve().parent}')
    findings = examine() + ([check_server(args.server)] if args.server else [])
    for finding in findings:
        print(f'{finding.state:>8}  {finding.about}: {finding.what}')
        if finding.remedy:
            print(f'{"":>8}  -> {finding.remedy}')
    return int(any(finding.state == WRONG for finding in findings))
