"""The RViz configuration and the Foxglove layout, held against the nodes they show."""
import json
import re
from pathlib import Path

import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from spun_node import Spun, fresh_domain, wait_until

from vlnr1_ros.nodes.driver import DriverNode
from vlnr1_ros.nodes.navigator import NavigatorNode

CONFIG = Path(__file__).parent.parent / 'config'
RVIZ = yaml.safe_load((CONFIG / 'vlnr1.rviz').read_text('utf-8'))
FOXGLOVE = json.loads((CONFIG / 'foxglove.json').read_text('utf-8'))
SHOWN_BY = {'rviz_default_plugins/Image': 'Image', 'rviz_default_plugins/Path': 'Path',
            'rviz_default_plugins/Odometry': 'Odometry',
            'rviz_default_plugins/LaserScan': 'LaserScan'}
MESSAGE_PATH = re.compile(r'(?P<topic>/[\w/]+)(?P<fields>[.\[].*)?')
DIAGNOSTIC = re.compile(r'/diagnostics\.status\[:\]\{name=="(?P<name>[\w/]+)"\}'
                        r'\.values\[:\]\{key=="(?P<key>\w+)"\}\.value')
# of a sensor_msgs/Twist and a TwistStamped on the same topic one is there
TWIST_FIELDS = {'.linear.x', '.angular.z', '.twist.linear.x', '.twist.angular.z'}


@pytest.fixture(scope='module')
def graph():
    """({topic: types}, services, {diagnostic name: keys}) of the two nodes."""
    domain_id = fresh_domain()

    def spun(make):
        return Spun(domain_id, make, lambda node: SingleThreadedExecutor(context=node.context))

    heard = []
    listener = spun(lambda context: rclpy.create_node('listener', context=context))
    listener.node.create_subscription(DiagnosticArray, '/diagnostics', heard.append, 10)
    nodes = [spun(lambda context, kind=kind, given=given: kind(
        context=context, parameter_overrides=[Parameter(name, value=value)
                                              for name, value in given.items()]))
        for kind, given in ((NavigatorNode, {'policy': 'forward', 'start_active': True}),
                            (DriverNode, {'obstacle_source': 'scan'}))]

    def keys():
        statuses = [message.status[0] for message in heard]
        return {status.name: {item.key for item in status.values} for status in statuses}

    wait_until(lambda: 'image_hz' in keys().get('/navigator', ()) and '/driver' in keys())
    topics, services = {}, set()
    for node in (item.node for item in nodes):
        for end in (*node.publishers, *node.subscriptions):
            topics.setdefault(end.topic_name, set()).add(end.msg_type.__name__)
        services |= {node.resolve_service_name(service.srv_name) for service in node.services}
    yield topics, services, keys()
    for item in (*nodes, listener):
        item.close()


def test_rviz_shows_topics_of_the_graph_by_the_displays_of_their_types(graph):
    topics, _, _ = graph
    manager = RVIZ['Visualization Manager']
    shown = {display['Topic']['Value']: SHOWN_BY[display['Class']]
             for display in manager['Displays'] if 'Topic' in display}
    assert set(shown) == {'navigator/annotated_image', 'plan', 'odom', 'scan'}
    for topic, kind in shown.items():
        assert kind in topics[f'/{topic}'], topic
    assert all(display['Enabled'] for display in manager['Displays'])
    assert manager['Global Options']['Fixed Frame'] == 'odom'


def test_rviz_asks_for_no_more_reliability_than_is_offered():
    offered = {'navigator/annotated_image': 'Reliable', 'plan': 'Reliable'}   # others: a robot's
    for display in RVIZ['Visualization Manager']['Displays']:
        if 'Topic' in display:
            topic = display['Topic']
            assert topic['Reliability Policy'] == offered.get(topic['Value'], 'Best Effort')
            assert topic['Durability Policy'] == 'Volatile'


def panels_of(layout):
    if isinstance(layout, str):
        return [layout]
    assert set(layout) == {'direction', 'splitPercentage', 'first', 'second'}
    assert layout['direction'] in ('row', 'column') and 0 < layout['splitPercentage'] < 100
    return panels_of(layout['first']) + panels_of(layout['second'])


def test_foxglove_lays_out_every_panel_once():
    assert {'configById', 'layout', 'globalVariables', 'userNodes', 'playbackConfig'} \
        == set(FOXGLOVE)
    panels = panels_of(FOXGLOVE['layout'])
    assert sorted(panels) == sorted(FOXGLOVE['configById'])
    assert {panel.split('!')[0] for panel in panels} == {
        'Image', '3D', 'Plot', 'StateTransitions', 'RawMessages', 'DiagnosticSummary',
        'DiagnosticStatusPanel', 'Publish', 'CallService'}


def named_by(panel):
    """Topics that a panel's settings name, without message paths."""
    yield from panel.get('topics', {})
    for key in ('topicToRender', 'topicName'):
        if key in panel:
            yield panel[key]
    if 'imageTopic' in panel.get('imageMode', {}):
        yield panel['imageMode']['imageTopic']


def paths_of(panel):
    yield from (path['value'] for path in panel.get('paths', []))
    if panel.get('topicPath'):
        yield panel['topicPath']


def test_foxglove_shows_topics_and_services_of_the_graph(graph):
    topics, services, _ = graph
    named = set()
    for panel in FOXGLOVE['configById'].values():
        named |= set(named_by(panel))
        named |= {MESSAGE_PATH.fullmatch(path)['topic'] for path in paths_of(panel)}
        if 'serviceName' in panel:
            assert panel['serviceName'] in services
        if 'datatype' in panel:
            assert panel['datatype'].split('/')[-1] in topics[panel['topicName']]
    assert named <= set(topics), named - set(topics)
    assert {'/navigator/annotated_image', '/cmd_vel', '/diagnostics', '/navigator/state',
            '/plan'} <= named


def test_foxglove_plots_diagnostics_and_fields_that_exist(graph):
    _, _, diagnostics = graph
    for panel in FOXGLOVE['configById'].values():
        assert panel.get('selectedName', '/driver') in diagnostics
        for path in paths_of(panel):
            if path.startswith('/diagnostics'):
                found = DIAGNOSTIC.fullmatch(path)
                assert found and found['key'] in diagnostics[found['name']], path
            elif path.startswith('/cmd_vel'):
                assert MESSAGE_PATH.fullmatch(path)['fields'] in TWIST_FIELDS
