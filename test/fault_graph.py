"""Bridge, driver and navigator as processes, with a relay between them that spoils what passes.

Time is the simulator's. It waits for the driver, for the relay and, as long as nobody hurts it,
for the navigator; and it never runs faster than wall time, by which the navigator measures. So a
fault's 0.24 s are counted on the driver's own clock, and a busy machine changes nothing.
"""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from driver_process import LATCHED
from fault_relay import FaultRelay, changed
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, LaserScan
from spun_node import Spun, fresh_domain, wait_until
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import Trigger

from sim_bridge.ros.graph import end_with_parent, isolated_environment
from vlnr1_ros.nodes import messages

TICK_S = 0.02
TIMEOUT_S = 0.2
PROGRAMS = {'driver': ['-m', 'vlnr1_ros.nodes.driver'],
            'navigator': ['-m', 'hurt_navigator'],
            'sim_bridge': ['-m', 'sim_bridge.ros.bridge']}
TIME = {'clock': Clock, 'odom': Odometry}
REST = {'scan': LaserScan, 'image_raw': Image, 'plan': PathMessage, 'plan_status': DiagnosticArray}
HEARD = {'driver': ('clock', 'odom', 'scan', 'plan'),
         'navigator': ('clock', 'odom', 'image_raw', 'plan_status'), 'sim_bridge': ()}
CAMERA = {'width': 64, 'height': 64, 'camera_hz': 25.0}
PARAMETERS = {
    'driver': {'use_sim_time': True, 'stamped': True, 'odom_timeout_s': TIMEOUT_S,
               'heartbeat_timeout_s': TIMEOUT_S, 'obstacle_timeout_s': TIMEOUT_S,
               'obstacle_source': 'scan', 'time_to_collision_s': 2.0, 'wall_timeout_s': 20.0,
               'stop_repeat_s': 60.0, 'max_linear_m_s2': 1.0, 'max_angular_rad_s2': 4.0},
    'navigator': {'use_sim_time': True, 'policy': 'expert', 'image_reliability': 'reliable',
                  'image_timeout_s': TIMEOUT_S, 'driver_timeout_s': 3.0, 'retry_s': 0.2,
                  'when_stuck': 'ignore'},
    'sim_bridge': {**CAMERA, 'scan': True, 'participants': ['driver'], 'cmd_vel_timeout_s': 0.2}}
LIMITS = (0.3, 1.0, 1.0, 4.0)   # m/s, rad/s and what they may change by in a second
ENDED = ('idle', 'finished', 'refused', 'failed')
FAR_M = 5.0     # what the scan says of the walls
LAG_TICKS = 4   # by which the navigator's clock may be behind
CLEAR_M = 4.0   # to be driven before the base is put back to the start
CLOCK_AGAIN_S = 0.3   # longer than any timeout that is measured
PATIENCE_S = 30.0


class FaultGraph(Spun):
    """Starts the three and observes them.

    episode: id of one that is long enough. parameters: {node: {name: value}} beside PARAMETERS.
    waits: whether time waits for the navigator; not in free run, where messages would be lost.
    commands: (m/s, rad/s, stamp in ns) of all velocities; statuses: of all plans; states: of the
    navigator; poses: {stamp in ns: (Pose, m/s, rad/s)} as the bridge says; told: {node: {key:
    value}} of the newest diagnostics.
    """

    def __init__(self, apartments, folder, episode, parameters=None, waits=True):
        self.folder = Path(folder)
        domain_id = fresh_domain()
        self._environment = {**isolated_environment(folder, domain_id),
                             'ROS_PYTHON_CHECK_FIELDS': '1',
                             'PYTHONPATH': str(Path(__file__).parent)}
        self._alone = ['-r', f'__ns:=/faults_{os.getpid()}', '-r', '/diagnostics:=diagnostics']
        config = apartments.config()
        self._parameters = {node: {**values, **(parameters or {}).get(node, {})}
                            for node, values in PARAMETERS.items()}
        self._parameters['sim_bridge'].update(
            dataset=config.dataset, split=config.split, scenes_dir=config.scenes_dir,
            episodes=' '.join([str(episode)] * 100))
        self.commands, self.statuses, self.states, self.poses = [], [], [], {}
        self.told, self._beat_ns, self._said = {}, 0, 0
        self._reset_at = 0
        self.navigator_is_hurt = True
        self.held = False
        self._waits, self.lag_ticks = waits, LAG_TICKS
        self.processes = {}
        super().__init__(domain_id, self._observer,
                         lambda node: SingleThreadedExecutor(context=node.context))
        self._time = TimeRelay(self)
        self._rest = FaultRelay(self.context, REST, ros_arguments=self._alone)
        self.heal()
        self.start('driver')
        wait_until(lambda: self.node.count_publishers('cmd_vel')
                   and self.stop.service_is_ready())
        # Zero is repeated from here on, so that every tick is answered.
        assert self.ask(self.stop).success
        self.start('sim_bridge')
        self.start_navigator()
        wait_until(lambda: self.commands, PATIENCE_S)

    def _observer(self, context):
        node = rclpy.create_node('observer', context=context, cli_args=[
            '--ros-args', *self._alone])
        subscribe = node.create_subscription
        subscribe(TwistStamped, 'cmd_vel', lambda m: self.commands.append((
            m.twist.linear.x, m.twist.angular.z, messages.time_ns(m.header.stamp))), 100)
        subscribe(DiagnosticArray, 'plan_status',
                  lambda m: self.statuses.append(messages.parse_plan_status(m)), 100)
        subscribe(Odometry, 'odom', self._on_odometry, 100)
        subscribe(Header, 'navigator/heartbeat', self._on_heartbeat, 100)
        subscribe(String, 'navigator/state',
                  lambda m: self.states.append(json.loads(m.data)), LATCHED)
        subscribe(DiagnosticArray, 'diagnostics', lambda m: self.told.update({
            m.status[0].name.rsplit('/', 1)[-1]: {v.key: v.value for v in m.status[0].values}}),
            100)
        self.instruction = node.create_publisher(String, 'instruction', 10)
        self.emergency = node.create_publisher(Bool, 'emergency_stop', 10)
        self.emergency_latched = node.create_publisher(Bool, 'emergency_stop', LATCHED)
        self.stop = node.create_client(Trigger, 'driver/stop')
        self.cancel = node.create_client(Trigger, 'navigator/cancel')
        self.reset = node.create_client(Trigger, 'sim_bridge/reset')
        self.change_state = node.create_client(ChangeState, 'navigator/change_state')
        return node

    # Processes

    def start(self, node, **parameters):
        """Start a node's process."""
        values = {**self._parameters[node], **parameters}
        arguments = [*self._alone, *(item for topic in HEARD[node] for item in (
            '-r', f'{"/" * (topic == "clock")}{topic}:=relayed/{topic}'))]
        if node == 'sim_bridge':
            # It would end the episode of a navigator that is idle.
            arguments += ['-r', '/clock:=clock', '-r', 'navigator/state:=unheard']
        for name, value in values.items():
            arguments += ['-p', f'{name}:={json.dumps(value)}']
        with open(self.folder / f'{node}.txt', 'ab') as log:
            self.processes[node] = subprocess.Popen(
                [sys.executable, *PROGRAMS[node], '--ros-args', *arguments], stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self._environment,
                preexec_fn=end_with_parent)

    def start_navigator(self, **parameters):
        """Start it, configure and activate it, and wait until it takes instructions."""
        self.states.clear()
        self.told.pop('navigator', None)
        self.start('navigator', **parameters)
        wait_until(lambda: self.states and self.change_state.service_is_ready(), PATIENCE_S)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert self.ask(self.change_state, request).success, self.states
        # who was killed is counted as a subscriber for as long as DDS believes in it
        wait_until(lambda: self.instruction.get_subscription_count()
                   and self.cancel.service_is_ready()
                   and self.hears('image_hz') and self.hears('odometry_hz'), PATIENCE_S)
        began_ns = self.now_ns
        wait_until(lambda: self._beat_ns >= began_ns, PATIENCE_S)
        self.navigator_is_hurt = False

    def hears(self, rate):
        """Whether the navigator's diagnostics have that rate, and it is not zero."""
        return float(self.told.get('navigator', {}).get(rate, 0.0)) > 0.0

    def end(self, node, number=signal.SIGTERM):
        """Exit code of a process after a signal."""
        process = self.processes.pop(node)
        self.navigator_is_hurt |= node == 'navigator'
        # its last word comes in time, however long a busy machine takes over it
        self.held = number == signal.SIGTERM
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)   # a stopped one takes no other
        try:
            return process.wait(30)
        finally:
            self.held = False

    def output(self, node):
        """What a process has printed."""
        return (self.folder / f'{node}.txt').read_text(errors='replace')

    def close(self):
        """End everything; the codes of those that still ran."""
        self.navigator_is_hurt, self.held = True, False
        codes = {node: self.end(node) for node in list(self.processes)}
        self._time.close()
        self._rest.close()
        super().close()
        return codes

    # What is heard

    @property
    def now_ns(self):
        """The time as the driver was told it last."""
        return self._time.passed_ns

    @property
    def state(self):
        return self.states[-1]['state']

    def _on_odometry(self, message):
        heard = messages.odometry(message)
        self.poses[heard.stamp_ns] = heard.pose, heard.linear_m_s, heard.angular_rad_s

    def _on_heartbeat(self, message):
        self._beat_ns = messages.time_ns(message.stamp)
        self.beat_s = time.monotonic()

    def may_go_on(self, stamp_ns):
        """Whether it may become that time: the navigator's own is not far behind."""
        waits = self._waits and self.now_ns and not self.navigator_is_hurt
        behind_ns = self.lag_ticks * TICK_S * 1e9
        return not self.held and (not waits or stamp_ns - self._beat_ns <= behind_ns)

    # What is done

    def spoil(self, topic, fault):
        """Do that to what passes on a topic."""
        (self._time if topic in TIME else self._rest).fault[topic] = fault

    def heal(self):
        """No fault any more."""
        shift = self._time.shift

        def clear_and_shift(message):
            clear(message)
            shift(message)

        self._time.heal()
        self._rest.fault = {'scan': changed(clear_and_shift), 'image_raw': changed(shift)}

    def jump(self, seconds):
        """The clock jumps, and with it the stamps of odometry, scans and images.

        Only in free run: in lockstep the bridge knows no velocity of another time.
        """
        self._time.jump_ns = int(seconds * 1e9)

    def ask(self, client, request=None):
        """A service's response; without a request, a Trigger's."""
        future = client.call_async(request or Trigger.Request())
        wait_until(future.done)
        return future.result()

    def until(self, condition, limit_s):
        """Until a condition holds; AssertionError after so much simulated time."""
        until_ns = self.now_ns + limit_s * 1e9
        wall_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.now_ns <= until_ns, f'not within {limit_s} s'
            assert time.monotonic() < wall_s, 'time stands still'
            time.sleep(0.005)

    def pass_time(self, seconds):
        """Let simulated time go on by that much, and hear what was said until then."""
        until_ns = self.now_ns + int(seconds * 1e9)
        wait_until(lambda: self.commands and self.commands[-1][2] >= until_ns, PATIENCE_S)

    def say(self):
        """Send an instruction that was never sent before, until it is accepted."""
        self._said += 1
        text = f'go to the goal, {self._said}'
        until_s = time.monotonic() + PATIENCE_S
        while not (self.states and self.states[-1]['instruction'] == text):
            assert time.monotonic() < until_s
            self.instruction.publish(String(data=text))
            time.sleep(0.1)

    def drives(self, told):
        """Whether a plan that was taken after so many statuses is driven."""
        return self.commands[-1][0] > 0.15 and any(
            status.state == 'accepted' and status.of for status in self.statuses[told:])

    def drive_off(self, fast=lambda linear, angular: linear > 0.15):
        """Everything is well, and the base is in the middle of a plan."""
        self.heal()
        self.navigator_is_hurt = False
        self.pass_time(0.1)   # odometry that is well again jumps back, which stops the base
        moved_m = sum(abs(linear) * TICK_S for linear, _, _ in self.commands[self._reset_at:])
        if moved_m > CLEAR_M:
            self.ask(self.cancel)
            self.ask(self.reset)
            self._reset_at = len(self.commands)
            self.pass_time(0.2)
        began = len(self.commands)

        def under_way():
            if self.state in ENDED:
                self.say()
            plan = self.statuses[-1] if self.statuses else None
            return (len(self.commands) > began and fast(*self.commands[-1][:2])
                    and plan.state in ('accepted', 'running') and plan.executed < plan.of - 1)

        self.until(under_way, 30.0)

    def goes_on(self, limit_s=10.0):
        """The same run goes on by itself, with a plan made after now."""
        now_ns, text = self.now_ns, self.states[-1]['instruction']
        self.until(lambda: self.commands[-1][0] > 0.15 and any(
            status.stamp_ns >= now_ns and status.state in ('accepted', 'running')
            for status in self.statuses[-20:]), limit_s)
        assert text and self.states[-1]['instruction'] == text

    def stops(self, began_ns, reason, within_s=TIMEOUT_S + 2 * TICK_S, stays_s=1.0):
        """Zero in time since then, for good, and the driver's reason in its diagnostics."""
        self.lag_ticks = 1   # so that what is counted is not how busy the machine is
        self.pass_time(within_s)
        self.lag_ticks = LAG_TICKS
        self.pass_time(stays_s)
        limit_ns = began_ns + int(within_s * 1e9)
        commands = [c for c in self.commands[-500:] if c[2] > began_ns]
        late = [c for c in commands if c[2] >= limit_ns and c[:2] != (0.0, 0.0)]
        assert not late, ((late[0][2] - began_ns) * 1e-9, self.told['driver'])
        wait_until(lambda: reason in self.told['driver']['last_stop'])
        assert any(reason in status.reason for status in self.statuses[-5:]), self.statuses[-5:]

    def navigator_says(self, reason):
        """In its state and in /diagnostics."""
        wait_until(lambda: reason in self.states[-1]['reason'] + self.states[-1]['policy_trouble'])
        wait_until(lambda: reason in json.dumps(self.told['navigator']))

    def limits_hold(self, since=0):
        """No command since that one is above the limits; ramps up are within them too."""
        linear, angular, linear_ramp, angular_ramp = LIMITS
        commands = self.commands[since:]
        for before, after in zip(commands, commands[1:]):
            dt_s = (after[2] - before[2]) * 1e-9
            assert 0.0 <= after[0] <= linear + 1e-9 and abs(after[1]) <= angular + 1e-9
            assert after[0] - before[0] <= linear_ramp * dt_s + 1e-9
            assert abs(after[1]) - abs(before[1]) <= angular_ramp * dt_s + 1e-9


def clear(message):
    """The simulated robot is narrower than the driver's outline: the walls are taken away."""
    message.ranges = [FAR_M] * len(message.ranges)


class TimeRelay(FaultRelay):
    """Lets the clock pass when the odometry of its time has, and when that time has come.

    While it waits nothing passes, so that it is another relay than that of the other topics.
    """

    def __init__(self, graph):
        self._graph = graph
        self._clock = self._passed = None
        self._odometry_ns = -1
        self._due_s = 0.0
        self._shift_ns = 0    # of all stamps
        self.jump_ns = 0      # by which it is to change at the next tick, the clock first
        self.passed_ns = 0
        super().__init__(graph.context, TIME, ros_arguments=graph._alone)
        self.heal()

    def heal(self):
        """No fault but that time is kept."""
        self.fault = {'clock': self._hold, 'odom': changed(self.shift)}

    def shift(self, message):
        """Stamp it by the clock that jumped."""
        message.header.stamp = messages.time_message(
            messages.time_ns(message.header.stamp) + self._shift_ns)

    def _hold(self, message):
        self._clock = message
        return []

    def _passer(self, topic):
        pass_on = super()._passer(topic)

        def pass_and_let_time_go(message):
            pass_on(message)
            if topic == 'odom':
                self._odometry_ns = messages.time_ns(message.header.stamp)
            if topic in ('clock', 'odom') and self._clock is not None and \
                    messages.time_ns(self._clock.clock) <= self._odometry_ns:
                self._let_time_go()
        return pass_and_let_time_go

    def _let_time_go(self):
        clock, self._clock = self._clock, None
        stamp_ns = messages.time_ns(clock.clock)
        again_s = time.monotonic() + CLOCK_AGAIN_S
        while (time.monotonic() < self._due_s or not self._graph.may_go_on(stamp_ns)):
            if not self.node.context.ok():
                return
            if time.monotonic() > again_s and self._passed is not None:
                # a clock is heard best effort: who was stopped when it came waits for another
                self.publishers['clock'].publish(self._passed)
                again_s = time.monotonic() + CLOCK_AGAIN_S
            time.sleep(0.001)
        jump_ns, self.jump_ns = self.jump_ns, 0
        self._shift_ns += jump_ns
        stamp_ns += self._shift_ns
        clock.clock = messages.time_message(stamp_ns)
        if stamp_ns > self.passed_ns:
            self._due_s = time.monotonic() + TICK_S
        self.passed_ns = stamp_ns if jump_ns else max(self.passed_ns, stamp_ns)
        self._passed = clock
        self.publishers['clock'].publish(clock)
