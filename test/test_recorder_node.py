"""The recorder node beside a real graph, and what its recordings are good for."""
import json
import signal
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from recorder_process import RecorderProcess
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CompressedImage
from spun_node import Spun, fresh_domain, wait_until
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from sim_bridge.ros.graph import Graph
from training import ego_bag
from training.ego_dataset import EgoDataset
from vlnr1_ros.bags.read import Bag
from vlnr1_ros.bags.write import PARTIAL
from vlnr1_ros.motion.plan import DROPPED, HOLD, REPLACED, PlanStatus
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.nodes import messages, replay
from vlnr1_ros.nodes.lean_executor import LeanExecutor
from vlnr1_ros.nodes.recorder import RecorderNode
from vlnr1_ros.policy.load import load_policy

ROOT = Path(__file__).resolve().parents[1]
EPISODE = '1'


@pytest.fixture(scope='module')
def flown(apartments, tmp_path_factory):
    """(results, folders) of two runs of nano: a whole recording, and one of a killed recorder.

    During the second run the recorder hangs, then is killed; another one repairs what it left.
    """
    folder = tmp_path_factory.mktemp('flown') / 'recordings'
    with Graph('models/nano', apartments.data, apartments.split, []) as graph:
        recorder = RecorderProcess(graph, folder)
        results = [graph.run(EPISODE)]
        recorder.finished(1)

        def hang():
            # when something is in the file, which is flushed every second
            wait_until(lambda: any(file.stat().st_size > 10**6 for file in
                                   (folder / PARTIAL).glob('*/*.mcap')))
            recorder.process.send_signal(signal.SIGSTOP)

        thread = threading.Thread(target=hang)
        thread.start()
        results.append(graph.run(EPISODE))
        thread.join()
        assert recorder.end(signal.SIGKILL) == -9
        second = RecorderProcess(graph, folder)
        folders = second.finished(2)
        assert second.end() == 0
        assert not recorder.lost()
    return results, folders


def test_a_run_is_a_bag_with_all_its_topics(flown):
    results, (path, _) = flown
    with Reader(path) as reader:
        names = {topic.rpartition('/')[2]: info.msgcount for topic, info in
                 reader.topics.items()}
        kinds = {connection.topic.rpartition('/')[2]: connection.msgtype
                 for connection in reader.connections}
    assert kinds['image_raw'] == 'sensor_msgs/msg/Image'
    assert kinds['cmd_vel'] == 'geometry_msgs/msg/TwistStamped'
    assert kinds['plan'] == 'nav_msgs/msg/Path'
    assert {'instruction', 'state', 'plan', 'plan_status', 'camera_info', 'diagnostics', 'odom',
            'image_raw', 'cmd_vel'} <= set(names)
    assert names['instruction'] >= 1 and names['plan'] == len(results[0]['decisions'])
    # odometry 50 times, images 10 times a second, from the sentence to the end; nobody waits for
    # a recorder, so some may be lost where the simulation is much faster than time
    ticks = results[0]['ticks']
    assert min(names['odom'], names['cmd_vel'], 5 * names['image_raw']) > 0.9 * ticks
    metadata = yaml.safe_load((path / 'metadata.yaml').read_text())
    information = metadata['rosbag2_bagfile_information']
    assert information['storage_identifier'] == 'mcap'
    assert information['relative_file_paths'] == [f'{path.name}.mcap']
    with Bag(path) as bag:
        run, = bag.runs()
        assert run.instruction == results[0]['instruction'] and run.states[-1] == 'finished'
        assert bag.rgb(run.images_ns[0]).shape == (224, 224, 3) and bag.hfov_deg() == 90.0


def test_a_hanging_recorder_changes_nothing_and_a_killed_one_leaves_its_file(flown):
    (first, second), (_, repaired) = flown
    assert second['actions'] == first['actions'] and second['ended_by'] == 'stop'
    assert repaired.name.endswith('_repaired') and (repaired / 'metadata.yaml').is_file()
    with Bag(repaired) as bag:
        run, = bag.runs()
        assert run.instruction == first['instruction'] and len(run.images_ns) > 5


def test_a_recording_of_nano_replayed_with_nano_decides_the_same(flown):
    results, (path, _) = flown
    policy = load_policy(ROOT / 'models/nano')
    with Bag(path) as bag:
        run, = bag.runs()
        decisions, remarks = replay.replay_run(bag, run, policy)
        again, _ = replay.replay_run(bag, run, policy)
    assert decisions == again and remarks == []
    assert len(decisions) == len(results[0]['decisions'])
    assert [list(made.then) for made in decisions] == [
        actions for _, actions in results[0]['decisions']]
    assert [made.differs_at for made in decisions] == [None] * len(decisions)


def test_replay_needs_no_ros_and_shows_where_another_policy_differs(flown):
    results, (path, _) = flown
    blocked = 'import sys\nfor name in ("rclpy", "std_msgs", "sensor_msgs", "nav_msgs"):\n' \
              '    sys.modules[name] = None\n' \
              'from vlnr1_ros.__main__ import main\nsys.exit(main(sys.argv[1:]))'
    done = subprocess.run([sys.executable, '-c', blocked, 'replay', str(path), '--policy',
                           'stop'], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == results[0]['instruction']
    count = len(results[0]['decisions'])
    assert lines[2].split()[-2:] == ['action', '1'] and '0.00s' in lines[2]
    assert f'0 of {count} (0.0%)' in lines[2 + count]


def test_a_recording_of_nano_is_samples_with_its_actions(flown, tmp_path):
    results, folders = flown
    out = tmp_path / 'own'
    assert ego_bag.main([*map(str, folders[:1]), '--out', str(out), '--card', 'models/nano',
                         '--camera-height-m', '1.25']) == 0
    data = EgoDataset(out)
    episode, = data.episodes
    assert [int(action) for action in episode.actions] == results[0]['actions']
    assert data.check(NavigationCard.load(ROOT / 'models/nano')) == []


class Stage(Spun):
    """Plays navigator, driver and base for a recorder in this process."""

    def __init__(self, domain_id):
        super().__init__(domain_id, lambda context: rclpy.create_node('stage', context=context),
                         lambda node: LeanExecutor(context=node.context))
        self.diagnostics = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.publishers = {name: self.node.create_publisher(kind, name, qos)
                           for kind, name, qos in (
            (Twist, 'cmd_vel', 10), (CompressedImage, 'image_raw/compressed', 10),
            (String, 'instruction', 10), (Bool, 'emergency_stop', 10),
            (DiagnosticArray, 'plan_status', 10),
            (String, 'navigator/state', latched))}
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        wait_until(lambda: all(p.get_subscription_count() for name, p in self.publishers.items()
                               if 'image' not in name))

    def _on_diagnostics(self, message):
        self.diagnostics.append({item.key: item.value for item in message.status[0].values})

    def say(self, name, message):
        self.publishers[name].publish(message)

    def state(self, state):
        self.say('navigator/state', String(data=json.dumps(
            {'state': state, 'instruction': 'go', 'decisions': 0, 'frames': 0})))


@pytest.fixture
def staged(tmp_path):
    """Function from parameters to (stage, recorder)."""
    spun = []

    def make(**parameters):
        domain_id = fresh_domain()
        overrides = [Parameter(name, value=value) for name, value in {
            'folder': str(tmp_path / 'recordings'), 'min_free_mb': 1, **parameters}.items()]
        recorder = Spun(domain_id, lambda context: RecorderNode(
            context=context, parameter_overrides=overrides),
            lambda node: LeanExecutor(context=node.context))
        spun.append(recorder)
        spun.append(Stage(domain_id))
        return spun[-1], recorder

    yield make
    for node in reversed(spun):
        node.close()


def test_services_and_events(staged, tmp_path):
    stage, _ = staged(runs=False, image_transport='compressed')
    stage.say('image_raw/compressed', CompressedImage(format='jpeg', data=array('B', b'123')))
    stage.say('cmd_vel', Twist())
    topics = set()

    def saved():
        answer = stage.call(Trigger, 'recorder/save', Trigger.Request())
        with Reader(Path(answer.message)) as reader:
            topics.update(reader.topics)
        return {'/cmd_vel', '/image_raw/compressed'} <= topics

    wait_until(saved)
    begun = stage.call(SetBool, 'recorder/record', SetBool.Request(data=True))
    assert begun.success
    stage.say('instruction', String(data='go to the door'))
    said = len(stage.diagnostics)
    wait_until(lambda: len(stage.diagnostics) > said + 1)   # a second at least
    assert stage.diagnostics[-1]['recording'] == begun.message
    ended = stage.call(SetBool, 'recorder/record', SetBool.Request(data=False))
    assert ended.success and ended.message == begun.message
    with Reader(Path(ended.message)) as reader:
        assert reader.topics['/instruction'].msgcount == 1
    rings = set((tmp_path / 'recordings').glob('ring_*'))
    stage.say('emergency_stop', Bool(data=True))
    wait_until(lambda: set((tmp_path / 'recordings').glob('ring_*')) > rings)


def test_only_news_is_an_event(staged):
    """Not a plan that another one replaces, nor what is said again and again."""
    stage, recorder = staged(runs=False)
    heard = []
    recorder.node._flight.event = lambda _steady_s, why: heard.append(why)
    for state, reason in ((DROPPED, HOLD), (DROPPED, REPLACED), (DROPPED, 'paused'),
                          (DROPPED, 'paused'), ('accepted', ''), (DROPPED, 'paused'),
                          (DROPPED, 'the scan is silent')):
        stage.say('plan_status', messages.plan_status(PlanStatus(1, state, 1, 4, reason), 0))
    wait_until(lambda: heard and 'silent' in heard[-1])
    assert heard == ['plan dropped: paused'] * 2 + ['plan dropped: the scan is silent']
    heard.clear()
    for pressed in (True, True, True, False, False, True):
        stage.say('emergency_stop', Bool(data=pressed))
    wait_until(lambda: len(heard) == 2)
    assert heard == ['emergency stop'] * 2


def test_no_room_is_a_warning_and_no_recording(staged, tmp_path):
    stage, recorder = staged(min_free_mb=10**9)
    stage.say('instruction', String(data='go'))
    stage.state('executing')
    wait_until(lambda: any('MB left' in said['trouble'] for said in stage.diagnostics))
    assert stage.diagnostics[-1]['recording'] == 'none'
    assert not list((tmp_path / 'recordings').glob('[!.]*'))
    assert recorder.thread.is_alive()


@pytest.mark.parametrize('parameter, told', [
    ('folder:=/proc/nothing', 'give another path'), ('image_transport:=h264', 'raw, compressed'),
    ('ring_s:=0.0', 'between 5')])
def test_what_cannot_be_is_one_line(parameter, told):
    done = subprocess.run([sys.executable, '-m', 'vlnr1_ros.nodes.recorder', '--ros-args', '-p',
                           parameter], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ') and told in last, done.stderr
