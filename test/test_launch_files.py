"""The launch files, read without ROS's launch: isolation, descriptions."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))


def calls(path, name):
    """Every call of a function of that name in a file."""
    return [node for node in ast.walk(ast.parse(path.read_text('utf-8')))
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == name]


def environment_set(path):
    return {call.args[0].value for call in calls(path, 'SetEnvironmentVariable')}


def default_of(path, argument):
    for call in calls(path, 'DeclareLaunchArgument'):
        if call.args[0].value == argument:
            return next(k.value for k in call.keywords if k.arg == 'default_value')
    raise AssertionError(f'{path.name} has no argument {argument}')


def test_both_launch_files_are_there():
    assert [path.name for path in FILES] == ['nav.launch.py', 'sim.launch.py']


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_argument_is_described(path):
    arguments = calls(path, 'DeclareLaunchArgument')
    assert len(arguments) > 5
    for call in arguments:
        description = {k.arg: k.value for k in call.keywords}.get('description')
        assert description is not None and len(description.value) > 10, call.args[0].value


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_argument_is_used(path):
    text = path.read_text('utf-8')
    for call in calls(path, 'DeclareLaunchArgument'):
        name = call.args[0].value
        assert f"value('{name}')" in text or f"text('{name}')" in text, name


def test_simulation_stays_on_this_machine_and_alone():
    path = ROOT / 'launch/sim.launch.py'
    assert {'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_DOMAIN_ID'} <= environment_set(path)
    assert default_of(path, 'discovery_range').value == 'LOCALHOST'
    for own in ('domain_id', 'namespace'):
        assert 'getpid' in ast.dump(default_of(path, own)), own


def test_the_robot_uses_the_network_as_it_is_set():
    path = ROOT / 'launch/nav.launch.py'
    assert environment_set(path) == {'RCUTILS_LOGGING_BUFFERED_STREAM'}
    assert default_of(path, 'use_sim_time').value == 'false'
    assert default_of(path, 'namespace').value == ''


def test_the_robot_drives_by_no_model_that_nobody_named():
    model = next(call for call in calls(ROOT / 'launch/nav.launch.py', 'DeclareLaunchArgument')
                 if call.args[0].value == 'model')
    assert 'default_value' not in {keyword.arg for keyword in model.keywords}


def test_a_navigator_that_died_is_not_activated_by_its_parameters():
    for path in FILES:
        assert 'start_active' not in path.read_text('utf-8')
