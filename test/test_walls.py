"""The walls of the house, read from the imports of every module."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ('vlnr1_ros', 'sim_bridge', 'training')

# what a part may import of the house besides itself; the longest matching prefix decides
MAY_IMPORT = {
    'vlnr1_ros': set(),
    'vlnr1_ros.navigation': set(),
    'vlnr1_ros.policy': {'vlnr1_ros.navigation', 'vlnr1_ros.resources'},
    'vlnr1_ros.motion': {'vlnr1_ros.navigation', 'vlnr1_ros.motion.plan'},
    # recordings are read by training, written by a node and cut like the motion of a robot
    'vlnr1_ros.bags': {'vlnr1_ros.navigation', 'vlnr1_ros.motion', 'vlnr1_ros.motion.plan'},
    'vlnr1_ros.nodes': {'vlnr1_ros.navigation', 'vlnr1_ros.policy', 'vlnr1_ros.motion',
                        'vlnr1_ros.motion.plan', 'vlnr1_ros.bags', 'vlnr1_ros.nodes.messages',
                        'vlnr1_ros.nodes.lean_executor',
                        'vlnr1_ros.nodes.runtime', 'vlnr1_ros.nodes.sockets',
                        'vlnr1_ros.resources', 'vlnr1_ros.command'},
    'vlnr1_ros.resources': {'vlnr1_ros.navigation'},
    'vlnr1_ros.command': {'vlnr1_ros.navigation'},
    'vlnr1_ros.doctor': {'vlnr1_ros', 'vlnr1_ros.navigation', 'vlnr1_ros.policy',
                         'vlnr1_ros.resources'},
    # names modules of every part as strings only, and imports them when called
    'vlnr1_ros.__main__': {'vlnr1_ros', 'vlnr1_ros.command'},
    'sim_bridge': {'vlnr1_ros.navigation', 'vlnr1_ros.resources', 'vlnr1_ros.command'},
    # both ends of a topic turn numbers into messages by the same functions
    'sim_bridge.ros': {'vlnr1_ros.navigation', 'vlnr1_ros.resources', 'vlnr1_ros.command',
                       'sim_bridge', 'sim_bridge.ros.graph', 'vlnr1_ros.nodes.messages',
                       'vlnr1_ros.nodes.runtime', 'vlnr1_ros.nodes.lean_executor',
                       'vlnr1_ros.motion.plan'},
    'vlnr1_ros.nodes.messages': {'vlnr1_ros.navigation', 'vlnr1_ros.bags',
                                 'vlnr1_ros.motion', 'vlnr1_ros.motion.plan'},
    'vlnr1_ros.nodes.runtime': {'vlnr1_ros.navigation', 'vlnr1_ros.nodes.lean_executor',
                                'vlnr1_ros.nodes.sockets', 'vlnr1_ros.command'},
    'vlnr1_ros.nodes.sockets': {'vlnr1_ros.resources'},
    'vlnr1_ros.nodes.lean_executor': set(),
    'vlnr1_ros.motion.plan': {'vlnr1_ros.navigation'},
    # the names of the graph's modules and parameters; it imports no ROS
    'sim_bridge.ros.graph': {'vlnr1_ros.navigation', 'vlnr1_ros.resources', 'sim_bridge'},
    'training': {'vlnr1_ros.navigation', 'vlnr1_ros.policy', 'vlnr1_ros.resources',
                 'vlnr1_ros.command', 'vlnr1_ros.bags', 'sim_bridge'},
}
# the parts that run ROS may be used by nothing else but the programs that show the graph
ROS_PARTS = ('vlnr1_ros.nodes', 'sim_bridge.ros')
USES_ROS_PARTS = {'sim_bridge.demo',
                  # evaluation through ROS: starts the graph as processes, is no part of it
                  'training.through_ros'}
ROS_MODULES = {'rclpy', 'rcl_interfaces', 'builtin_interfaces', 'diagnostic_msgs',
               'geometry_msgs', 'lifecycle_msgs', 'nav_msgs', 'rosgraph_msgs', 'sensor_msgs',
               'std_msgs', 'std_srvs', 'tf2_ros', 'tf2_msgs', 'launch', 'launch_ros', 'cv_bridge'}
# module -> the parts that may import it
ONLY_IN = {
    **dict.fromkeys(ROS_MODULES, ROS_PARTS),
    **dict.fromkeys(('torch', 'transformers', 'peft', 'trl', 'accelerate', 'datasets'),
                    ('vlnr1_ros.policy', 'training')),
    **dict.fromkeys(('habitat', 'habitat_sim', 'magnum'), ('sim_bridge',)),
}
NAVIGATION_MAY_IMPORT = {'numpy', 'cv2'}


def modules():
    """{dotted name: path} of every module of the house."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob('*.py')):
            parts = path.relative_to(ROOT).with_suffix('').parts
            found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


MODULES = modules()


def imports(name):
    """Every module that a module imports anywhere in it, as absolute dotted names."""
    path = MODULES[name]
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = package.split('.')[:len(package.split('.')) - node.level + 1]
                base = '.'.join([*above, base]) if base else '.'.join(above)
            for alias in node.names:
                whole = f'{base}.{alias.name}'
                yield whole if whole in MODULES else base


def within(name, part):
    return name == part or name.startswith(part + '.')


def part_of(name, parts):
    """The longest of `parts` that a module lies in, or None."""
    return max((part for part in parts if within(name, part)), key=len, default=None)


def ours(name):
    return name.split('.')[0] in PACKAGES


def allowed(name, target):
    """Whether module `name` may import our module `target`."""
    home = part_of(name, MAY_IMPORT)
    if part_of(target, ROS_PARTS) and not (part_of(name, ROS_PARTS) or name in USES_ROS_PARTS):
        return False
    home_of_target = part_of(target, MAY_IMPORT)
    return (home_of_target == home or home_of_target in MAY_IMPORT[home]
            or name in USES_ROS_PARTS and target == 'sim_bridge.ros.graph')


def test_the_house_is_read():
    assert {'vlnr1_ros.navigation.actions', 'vlnr1_ros.nodes.driver',
            'sim_bridge.config'} <= set(MODULES)
    assert 'vlnr1_ros.command' in set(imports('vlnr1_ros.__main__'))
    assert 'vlnr1_ros.navigation.actions' in set(imports('vlnr1_ros.navigation.card'))


@pytest.mark.parametrize('name, target', [
    ('vlnr1_ros.navigation.card', 'vlnr1_ros.policy.base'),
    ('vlnr1_ros.motion.driver', 'vlnr1_ros.nodes.driver'),
    ('sim_bridge.config', 'training.sft'),
    ('sim_bridge.config', 'sim_bridge.ros.bridge'),
    ('sim_bridge.ros.bridge', 'vlnr1_ros.policy.load'),
    ('sim_bridge.ros.bridge', 'vlnr1_ros.nodes.navigator'),
    ('vlnr1_ros.nodes.messages', 'vlnr1_ros.nodes.navigator'),
    ('vlnr1_ros.nodes.driver', 'sim_bridge.ros.bridge'),
    ('vlnr1_ros.policy.load', 'sim_bridge.environment'),
    ('training.sft', 'vlnr1_ros.nodes.navigator'),
    ('training.evaluate', 'sim_bridge.ros.graph'),
    ('training.through_ros', 'sim_bridge.ros.bridge'),
])
def test_the_rules_forbid(name, target):
    assert not allowed(name, target)


@pytest.mark.parametrize('name', MODULES)
def test_imports_of_ours(name):
    wrong = {target for target in imports(name) if ours(target) and not allowed(name, target)}
    assert not wrong, f'{name} may not import {sorted(wrong)}'


@pytest.mark.parametrize('name', MODULES)
def test_imports_of_others(name):
    for target in imports(name):
        top = target.split('.')[0]
        if ours(top) or top in sys.stdlib_module_names:
            continue
        if within(name, 'vlnr1_ros.navigation'):
            assert top in NAVIGATION_MAY_IMPORT, f'{name} may not import {target}'
        parts = ONLY_IN.get(top)
        assert parts is None or part_of(name, parts), f'{name} may not import {target}'


def test_the_program_imports_its_verbs_when_called():
    tree = ast.parse(MODULES['vlnr1_ros.__main__'].read_text(encoding='utf-8'))
    at_start = {alias.name for node in tree.body if isinstance(node, ast.Import)
                for alias in node.names}
    assert at_start <= set(sys.stdlib_module_names)


def runs_on_python_39(name):
    return within(name, 'sim_bridge') and not within(name, 'sim_bridge.ros')


@pytest.mark.parametrize('name', [name for name in MODULES if runs_on_python_39(name)])
def test_grammar_of_python_39(name):
    tree = ast.parse(MODULES[name].read_text(encoding='utf-8'), feature_version=(3, 9))
    annotated = any(isinstance(node, ast.FunctionDef) and (node.returns or any(
        argument.annotation for argument in node.args.args)) for node in ast.walk(tree))
    futures = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom)
               and node.module == '__future__' for alias in node.names}
    assert not annotated or 'annotations' in futures, f'{name}: from __future__ import annotations'
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg for keyword in node.keywords}
            called = getattr(node.func, 'id', '')
            assert not (called == 'dataclass' and keywords & {'slots', 'kw_only'}), name
            assert not (called == 'zip' and 'strict' in keywords), name


def test_what_python_39_imports_of_ours_is_python_39_too():
    todo, seen = [name for name in MODULES if runs_on_python_39(name)
                  and name not in USES_ROS_PARTS], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        ast.parse(MODULES[name].read_text(encoding='utf-8'), feature_version=(3, 9))
        todo += [target for target in imports(name) if target in MODULES]
    assert 'vlnr1_ros.navigation.metrics' in seen
    assert not any(part_of(name, ROS_PARTS) for name in seen)
