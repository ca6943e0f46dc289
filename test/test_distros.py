"""The code keeps to what Humble, Jazzy, Kilted and Lyrical all have, or says what else it does.

A use counts as guarded inside `try` with one of the exceptions that its absence raises, or inside
`if` that asks for it: `hasattr` or ROS_DISTRO. What is known of the distros was read in the
sources of rclpy 3.3 (Humble), 7.1 (Jazzy), 9.1 (Kilted) and rolling, and of launch_ros 0.19, 0.26
and 0.28.
"""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for folder in ('vlnr1_ros', 'sim_bridge', 'training', 'launch')
         for path in sorted((ROOT / folder).rglob('*.py'))]
OLDEST_PYTHON = (3, 10)   # Humble's
HUMBLE = 'Humble has it not'
HUMBLE_JAZZY = 'Humble and Jazzy have it not'
PYTHON = "Humble's Python 3.10 has it not"
WHEELS = 'the wheels from the package index, on which the tests run, have it not'

MODULES = {
    **dict.fromkeys(('rclpy.event_handler', 'rclpy.parameter_client', 'rclpy.type_hash',
                     'rclpy.parameter_event_handler', 'rclpy.service_introspection',
                     'rclpy.type_description_service', 'rclpy.experimental'), HUMBLE),
    'rclpy.qos_event': 'deprecated since Iron',
    **dict.fromkeys(('cv_bridge', 'tf2_ros', 'tf2_msgs', 'ament_index_python'), WHEELS),
    'tomllib': PYTHON,
}
NAMES = {
    ('launch_ros.actions', 'PushROSNamespace'): f'{HUMBLE}: PushRosNamespace is in all',
    ('launch_ros.actions', 'LifecycleTransition'): HUMBLE,
    ('rclpy.timer', 'TimerInfo'): HUMBLE_JAZZY,
    ('rclpy.parameter', 'parameter_dict_from_yaml_file'): HUMBLE,
    ('rclpy.parameter', 'get_parameter_value'): HUMBLE,
    **dict.fromkeys((('typing', name) for name in ('Self', 'Never', 'NotRequired', 'Required',
                                                   'Unpack', 'override', 'assert_never')), PYTHON),
    ('enum', 'StrEnum'): PYTHON, ('datetime', 'UTC'): PYTHON,
}
METHODS = dict.fromkeys(
    ('add_pre_set_parameters_callback', 'add_post_set_parameters_callback', 'wait_for_node',
     'get_fully_qualified_node_names', 'configure_introspection'), HUMBLE)
KEYWORDS = {('create_timer', 'autostart'): HUMBLE, ('call', 'timeout_sec'): HUMBLE,
            ('LifecycleNode', 'autostart'): 'launch_ros before 0.28 has it not'}
CONTEXT_MANAGERS = {'init', 'create_node', 'create_publisher', 'create_subscription',
                    'create_client', 'create_service', 'create_timer', 'Node', 'Context'}
"""Of rclpy; `with` works with them from Kilted on, with Context from Jazzy on."""
TRANSITIONS = {'on_activate', 'on_deactivate'}
ABSENCE = {'ImportError', 'ModuleNotFoundError', 'AttributeError', 'TypeError'}


def called(node):
    """Name of what a call calls, without what it is a part of."""
    return getattr(node.func, 'attr', getattr(node.func, 'id', ''))


def complaints(node):
    """What is wrong with one node of the tree, if nothing guards it."""
    if isinstance(node, ast.Import):
        imported = [(alias.name, '') for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        imported = [(node.module, alias.name) for alias in node.names]
    else:
        imported = []
    for module, name in imported:
        for known, why in MODULES.items():
            if f'{module}.{name}.'.startswith(f'{known}.'):
                yield f'{known}: {why}'
        if (module, name) in NAMES:
            yield f'{name}: {NAMES[module, name]}'
    if isinstance(node, ast.Attribute) and node.attr in METHODS:
        yield f'{node.attr}: {METHODS[node.attr]}'
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            why = KEYWORDS.get((called(node), keyword.arg))
            if why:
                yield f'{called(node)}({keyword.arg}=): {why}'
        if called(node) == 'declare_parameter' and len(node.args) + len(node.keywords) < 2:
            yield 'declare_parameter without a value: deprecated, and forbidden to read'
    if isinstance(node, ast.With):
        for item in node.items:
            if isinstance(item.context_expr, ast.Call):
                call = ast.unparse(item.context_expr.func)
                if call.split('.')[-1] in CONTEXT_MANAGERS:
                    yield f'with {call}(): {HUMBLE_JAZZY}'
    if isinstance(node, ast.ClassDef) and 'create_lifecycle_publisher(' in ast.unparse(node):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name in TRANSITIONS \
                    and f'super().{method.name}(' not in ast.unparse(method):
                yield f'{method.name} without super(): its publishers stay as they were'


def guards(node):
    """Whether what is inside may fail: somebody is prepared."""
    if isinstance(node, ast.Try):
        return any(handler.type is None or ABSENCE & set(ast.unparse(handler.type).strip(
            '()').replace(' ', '').split(',')) for handler in node.handlers)
    return isinstance(node, ast.If) and any(
        word in ast.unparse(node.test) for word in ('hasattr', 'ROS_DISTRO'))


def unguarded(tree):
    """(line, complaint) of everything that not all distros have."""
    if guards(tree):
        return
    yield from ((tree.lineno, told) for told in complaints(tree))
    for child in ast.iter_child_nodes(tree):
        yield from unguarded(child)


def of(source):
    return [told for _, told in unguarded(ast.parse(source))]


@pytest.mark.parametrize('source', [
    'import rclpy.event_handler', 'from rclpy import event_handler',
    'from rclpy.event_handler import SubscriptionEventCallbacks',
    'from rclpy.experimental.events_executor import EventsExecutor', 'import cv_bridge',
    'from tf2_ros import TransformBroadcaster', 'from launch_ros.actions import PushROSNamespace',
    'from typing import Self', 'node.add_post_set_parameters_callback(print)',
    'client.call(request, timeout_sec=1.0)', 'self.create_timer(1.0, print, autostart=False)',
    'with rclpy.init():\n    pass', 'with rclpy.create_node("a") as node:\n    pass',
    'node.declare_parameter("rate")', 'try:\n    import cv_bridge\nexcept ValueError:\n    pass',
    'class A(LifecycleNode):\n    def on_configure(self, state):\n'
    '        self.out = self.create_lifecycle_publisher(String, "out", 10)\n'
    '    def on_activate(self, state):\n        return 1'])
def test_what_a_distro_has_not_is_found(source):
    assert len(of(source)) == 1


@pytest.mark.parametrize('source', [
    'from rclpy.qos import QoSProfile', 'node.add_on_set_parameters_callback(print)',
    'client.wait_for_service(timeout_sec=1.0)', 'self.create_timer(1.0, print, clock=clock)',
    'node.declare_parameter("rate", 1.0)', 'with open("x") as file:\n    pass',
    'try:\n    from rclpy.event_handler import X\n'
    'except ImportError:\n    from rclpy.qos_event import X',
    'if hasattr(node, "wait_for_node"):\n    node.wait_for_node("a", 1.0)',
    'class A(LifecycleNode):\n    def on_configure(self, state):\n'
    '        self.out = self.create_lifecycle_publisher(String, "out", 10)\n'
    '    def on_activate(self, state):\n        return super().on_activate(state)',
    'class A(LifecycleNode):\n    def on_activate(self, state):\n        return 1'])
def test_what_all_have_or_is_guarded_passes(source):
    assert not of(source)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_distro_has_what_is_used(path):
    source = path.read_text('utf-8')
    found = list(unguarded(ast.parse(source, feature_version=OLDEST_PYTHON)))
    # launch files run where ROS is installed
    found = [(line, told) for line, told in found
             if not (path.parent.name == 'launch' and WHEELS in told)]
    assert not found
