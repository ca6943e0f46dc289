"""The one description of the package: pip reads it, colcon reads it (ament_python)."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'vlnr1_ros'
SHARE = f'share/{PACKAGE}'


def shipped(folder):
    """The files below a folder, as (folder below share/, files) pairs for data_files."""
    files = sorted(path for path in glob(f'{folder}/**', recursive=True) if Path(path).is_file()
                   and '__pycache__' not in path)
    folders = sorted({str(Path(path).parent) for path in files})
    return [(f'{SHARE}/{below}', [path for path in files if str(Path(path).parent) == below])
            for below in folders]


OPENCV = 'opencv-python-headless>=4.8,<5'
RAY = 'ray>=2.60,<3'
# exactly: what a killed recorder leaves depends on how it writes
ROSBAGS = 'rosbags==0.11.9'

EXTRAS = {
    # on the robot or on the machine beside it: the model and nothing of the simulator
    'robot': [OPENCV, ROSBAGS, 'torch>=2.6', 'transformers>=5,<6', 'peft>=0.21', 'pillow',
              'safetensors'],
    # on the robot when the model is on another machine: neither torch nor transformers
    'remote': [OPENCV, ROSBAGS, 'tokenizers'],
    # vlnr1 serve on that machine
    'serve': ['torch>=2.6', 'transformers>=5,<6', 'accelerate', 'pillow', 'safetensors',
              'fastapi', 'uvicorn', 'openai>=1.98'],
    # ROS 2 Jazzy where it is not installed by apt: unofficial wheels, x86_64 Linux only
    'ros': [
        'ros-jazzy-rclpy[fastrtps]==7.1.6',
        'ros-jazzy-std-msgs==5.3.6',
        'ros-jazzy-sensor-msgs==5.3.6',
        'ros-jazzy-geometry-msgs==5.3.6',
        'ros-jazzy-nav-msgs==5.3.6',
        'ros-jazzy-std-srvs==5.3.6',
        'ros-diagnostic-msgs==5.3.6',
    ],
    # what habitat-lab 0.3.320260507 needs, with headless OpenCV in place of the one that wants
    # libGL; habitat-lab itself: pip install --no-deps habitat-lab==0.3.320260507
    'sim': [
        OPENCV,
        'gym>=0.22.0,<0.23.1',
        'numpy-quaternion',
        'attrs>=19.1',
        'hydra-core>=1.2',
        'omegaconf>=2.2.3',
        'imageio',
        'imageio-ffmpeg',
        'scipy>=1.10.1',
        'tqdm',
        'numba>=0.59',
        'shapely>=2.0',
        'trimesh>=4',
        'pillow',
        'msgpack>=1',
    ],
    'train': [OPENCV, ROSBAGS, 'torch>=2.6', 'transformers>=5,<6', 'trl>=1.14,<2', 'peft>=0.21',
              'accelerate', 'datasets', 'matplotlib', 'pillow', 'safetensors', 'tqdm'],
    # training curves: --report_to tensorboard, --report_to wandb
    'log': ['tensorboard', 'wandb'],
    # evaluation and data generation on many machines
    'ray': [RAY],
    'test': ['pytest>=8', 'pytest-timeout', 'ruff', 'psutil', 'tensorboard', RAY],
}

setup(
    name=PACKAGE,
    version='0.1.0',
    description='VLN-R1 for ROS 2: a robot follows a sentence with a camera and an LVLM',
    license='Apache-2.0',
    maintainer='VLN-R1 for ROS 2 maintainers',
    maintainer_email='maintainers@example.org',
    python_requires='>=3.10',
    packages=find_packages(include=['vlnr1_ros*', 'sim_bridge*', 'training*']),
    # the packages' own settings, read beside the module that uses them
    package_data={'': ['*.json', '*.jinja', '*.xml'], 'training': ['configs/**/*.yaml']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (SHARE, ['package.xml']),
        *shipped('launch'),
        *shipped('config'),
        *shipped('models/nano'),
    ],
    install_requires=['setuptools', 'numpy>=1.26,<3', 'PyYAML'],
    extras_require=EXTRAS,
    zip_safe=False,
    entry_points={
        'console_scripts': [
            'navigator = vlnr1_ros.nodes.navigator:main',
            'driver = vlnr1_ros.nodes.driver:main',
            'recorder = vlnr1_ros.nodes.recorder:main',
            'sim_bridge = sim_bridge.ros.bridge:main',
            'vlnr1 = vlnr1_ros.__main__:main',
        ],
    },
)
