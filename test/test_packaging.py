"""The package as pip and colcon see it, and the files it ships."""

import ast
import configparser
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

from vlnr1_ros import __version__, resources
from vlnr1_ros.navigation.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()
# which package.xml name brings a module that is not a ROS package of the same name
ROSDEP = {'numpy': 'python3-numpy', 'cv2': 'python3-opencv', 'yaml': 'python3-yaml'}
ON_THE_ROBOT = ('vlnr1_ros/navigation', 'vlnr1_ros/motion', 'vlnr1_ros/nodes', 'sim_bridge/ros',
                'launch')
# optional at run time: looked for, and done without where they are missing
OPTIONAL = {'tf2_ros', 'tf2_msgs', 'cv_bridge'}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel of this checkout, built without a package index, from a copy."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'README.md', 'LICENSE',
                 'resource', 'vlnr1_ros', 'sim_bridge', 'training', 'launch', 'config', 'models'):
        if (ROOT / name).exists():
            (source / name).symlink_to(ROOT / name)
    pip('wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source)
    return next(folder.glob('vlnr1_ros-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """A folder laid out as site-packages of a prefix, with the wheel installed."""
    prefix = tmp_path_factory.mktemp('prefix')
    pip('install', '--no-deps', '--no-index', '--target', prefix, wheel)
    return prefix


def pip(*arguments):
    done = subprocess.run([sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet',
                           *map(str, arguments)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def names_in(wheel):
    return zipfile.ZipFile(wheel).namelist()


def imported_tops(folder):
    for path in sorted((ROOT / folder).rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split('.')[0]


def test_manifest_is_format_3():
    assert MANIFEST.get('format') == '3'
    for tag in ('name', 'version', 'description', 'maintainer', 'license'):
        assert MANIFEST.findtext(tag).strip(), tag
    assert '@' in MANIFEST.find('maintainer').get('email')
    assert MANIFEST.findtext('export/build_type') == 'ament_python'
    order = [element.tag for element in MANIFEST]
    assert order.index('license') < order.index('exec_depend') < order.index('export')


def test_one_version():
    assert MANIFEST.findtext('version') == __version__
    assert f"version='{__version__}'" in (ROOT / 'setup.py').read_text()


def test_manifest_names_what_is_imported():
    named = {element.text for element in MANIFEST if element.tag.endswith('depend')}
    tops = {top for folder in ON_THE_ROBOT for top in imported_tops(folder)}
    others = {ROSDEP.get(top, top) for top in tops - OPTIONAL - set(sys.stdlib_module_names)
              - {'vlnr1_ros', 'sim_bridge', 'training'}}
    assert 'rclpy' in others
    assert others <= named, f'package.xml does not name {sorted(others - named)}'


def test_executables_go_where_ros2_run_looks():
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    assert settings['install']['install_scripts'] == '$base/lib/vlnr1_ros'
    assert settings['develop']['script_dir'] == '$base/lib/vlnr1_ros'


def test_no_packages_that_shadow_others():
    assert not [name for name in ('launch', 'test', 'config')
                if (ROOT / name / '__init__.py').exists()]


def test_wheel_holds_the_code_and_the_files(wheel):
    names = names_in(wheel)
    share = f'vlnr1_ros-{__version__}.data/data/share'
    assert f'{share}/ament_index/resource_index/packages/vlnr1_ros' in names
    assert f'{share}/vlnr1_ros/package.xml' in names
    for folder in ('launch', 'config', 'models/nano'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert f'{share}/vlnr1_ros/{path.relative_to(ROOT)}' in names
    for package in ('vlnr1_ros', 'sim_bridge', 'training'):
        for path in (ROOT / package).rglob('*.py'):
            assert str(path.relative_to(ROOT)) in names
    assert not [name for name in names if name.startswith(('test/', 'launch/', 'config/'))]


def test_wheel_holds_the_settings_beside_their_modules(wheel):
    names = names_in(wheel)
    for package in ('vlnr1_ros', 'sim_bridge', 'training'):
        for path in (ROOT / package).rglob('*'):
            if path.suffix in ('.yaml', '.json', '.jinja', '.xml'):
                assert str(path.relative_to(ROOT)) in names


def test_entry_points_resolve(wheel):
    archive = zipfile.ZipFile(wheel)
    text = archive.read(f'vlnr1_ros-{__version__}.dist-info/entry_points.txt').decode()
    points = configparser.ConfigParser()
    points.read_string(text)
    scripts = dict(points['console_scripts'])
    assert set(scripts) == {'navigator', 'driver', 'recorder', 'sim_bridge', 'vlnr1'}
    for target in scripts.values():
        module, function = target.split(':')
        tree = ast.parse((ROOT / (module.replace('.', '/') + '.py')).read_text(encoding='utf-8'))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_robot_extra_pulls_no_simulator(wheel):
    metadata = zipfile.ZipFile(wheel).read(f'vlnr1_ros-{__version__}.dist-info/METADATA').decode()
    robot = [line for line in metadata.splitlines()
             if line.startswith('Requires-Dist:') and line.endswith("'robot'")
             or line.endswith('"robot"')]
    assert any('transformers' in line for line in robot)
    assert not [line for line in robot if any(name in line for name in
                                              ('habitat', 'numba', 'gym', 'trl', 'trimesh'))]


def test_resources_in_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resources.shipped('package.xml') == ROOT / 'package.xml'
    with pytest.raises(UserError, match='models/none'):
        resources.shipped('models/none')


def test_what_the_user_gives_goes_before_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resources.given_or_shipped('package.xml') == ROOT / 'package.xml'
    (tmp_path / 'package.xml').write_text('mine')
    assert resources.given_or_shipped('package.xml') == tmp_path / 'package.xml'
    with pytest.raises(UserError, match='neither below'):
        resources.given_or_shipped('nothing/here')
    with pytest.raises(UserError, match='does not exist'):
        resources.given_or_shipped(str(tmp_path / 'gone'))


def test_resources_of_an_installed_wheel(installed, tmp_path):
    environment = {**os.environ, 'PYTHONPATH': str(installed)}
    done = subprocess.run(
        [sys.executable, '-c', 'from vlnr1_ros import resources\n'
         'print(resources.__file__)\nprint(resources.shipped("package.xml"))'],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    module, manifest = done.stdout.split()
    assert module == str(installed / 'vlnr1_ros' / 'resources.py')
    assert manifest == str(installed / 'share' / 'vlnr1_ros' / 'package.xml')


def test_other_platforms_are_refused_in_one_line(tmp_path):
    """install.sh on a machine whose `uname` tells of another processor."""
    uname = tmp_path / 'uname'
    uname.write_text('#!/bin/sh\ncase $1 in -s) echo Linux;; -m) echo aarch64;; '
                     '*) echo Linux aarch64;; esac\n')
    uname.chmod(0o755)
    done = run_install(f'{tmp_path}:{os.environ["PATH"]}')
    assert done.returncode == 2
    assert done.stderr.startswith('install: the demo and the tests need x86_64 Linux')
    assert done.stderr.count('\n') == 1 and 'aarch64' in done.stderr


def test_without_a_usable_python_install_says_which_to_get(tmp_path):
    for name in ('python3.11', 'python3.12', 'python3.10', 'python3'):
        # a pyenv shim whose version is switched off: there, and fails
        shim = tmp_path / name
        shim.write_text('#!/bin/sh\necho "command not found" >&2\nexit 127\n')
        shim.chmod(0o755)
    done = run_install(f'{tmp_path}:/usr/bin:/bin')
    assert done.returncode == 2
    assert done.stderr.startswith('install: no Python 3.10, 3.11 or 3.12')
    assert done.stderr.count('\n') == 1


def run_install(path):
    return subprocess.run(['bash', str(ROOT / 'install.sh')], timeout=60, capture_output=True,
                          text=True, env={**os.environ, 'PATH': path})
