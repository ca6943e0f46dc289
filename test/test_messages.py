"""Messages: no field of a wrong type or value ever leaves, images of every layout are read."""
import math
from array import array

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Quaternion
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from vlnr1_ros.motion.plan import PlanStatus, Pose, encode
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import messages

pytestmark = pytest.mark.smoke
STAMP_NS = 1_700_000_000_123_456_789


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


@pytest.mark.parametrize('value', [1, np.float32(0.5), np.int64(2), True, np.array(0.25)])
def test_numbers_of_any_type_arrive_as_they_are(value):
    message = over_the_wire(messages.twist_stamped(value, value, STAMP_NS, 'base_link'))
    assert message.twist.linear.x == float(value)
    assert message.twist.angular.z == float(value)
    assert messages.time_ns(message.header.stamp) == STAMP_NS
    assert message.header.frame_id == 'base_link'


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 'fast', None, np.float32('nan')])
def test_velocities_that_are_not_finite_never_leave(value):
    with pytest.raises(UserError, match='linear velocity'):
        messages.twist(value, 0.0)
    with pytest.raises(UserError, match='angular velocity'):
        messages.twist(0.0, value)


@pytest.mark.parametrize('stamp_ns', [-1, 2**31 * 10**9])
def test_stamps_that_do_not_fit_are_refused(stamp_ns):
    with pytest.raises(UserError, match='does not fit'):
        messages.time_message(stamp_ns)


def test_plans_survive_the_wire():
    poses = encode(Pose(-3.0, 7.5, 3.1), [1, 2, 3, 0], ActionSet())
    message = over_the_wire(messages.path(poses, STAMP_NS, 'odom'))
    assert message.header.frame_id == message.poses[2].header.frame_id == 'odom'
    for back, pose in zip(messages.path_poses(message), poses):
        assert back.distance_m(pose) < 1e-9 and back.turn_rad(pose) < 1e-9
    assert messages.path_poses(over_the_wire(messages.path([], STAMP_NS, 'odom'))) == []
    with pytest.raises(UserError, match='yaw of a pose'):
        messages.path([Pose(0.0, 0.0, math.nan)], STAMP_NS, 'odom')


@pytest.mark.parametrize('x, y, z, w', [
    (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0), (math.nan, 0.0, 0.0, 1.0)])
def test_what_is_no_rotation_has_no_heading(x, y, z, w):
    assert math.isnan(messages.yaw_rad(Quaternion(x=x, y=y, z=z, w=w)))


def test_heading_of_a_tilted_base_is_that_of_its_projection():
    half = math.radians(10) / 2
    pitched = Quaternion(x=0.0, y=math.sin(half), z=0.0, w=math.cos(half))
    assert messages.yaw_rad(pitched) == pytest.approx(0.0)
    turned = Quaternion(x=0.0, y=0.0, z=math.sin(-1.0), w=math.cos(-1.0))
    assert messages.yaw_rad(turned) == pytest.approx(-2.0)


@pytest.mark.parametrize('stamp_ns', [0, 1, STAMP_NS, 999_999_999])
def test_plan_status_survives_the_wire(stamp_ns):
    status = PlanStatus(stamp_ns, 'dropped', 1, 3, 'odometry is silent: "quoted", 0.3 s')
    message = over_the_wire(messages.plan_status(status, STAMP_NS))
    assert messages.parse_plan_status(message) == status
    assert message.status[0].level == b'\x01'
    assert {item.key for item in message.status[0].values} == {
        'plan_stamp', 'state', 'executed', 'of', 'reason'}


def test_what_is_no_plan_status_is_refused():
    with pytest.raises(UserError, match='not a plan_status'):
        messages.parse_plan_status(DiagnosticArray())
    with pytest.raises(UserError, match='not a plan_status'):
        messages.parse_plan_status(messages.diagnostics('x', 0, '', {'plan_stamp': 'soon'}, 0))


def test_diagnostics_take_values_of_any_type():
    message = over_the_wire(messages.diagnostics(
        'driver', 2, 'text', {'count': np.int64(3), 'age': None}, STAMP_NS))
    assert [(item.key, item.value) for item in message.status[0].values] == [
        ('count', '3'), ('age', 'None')]
    assert message.status[0].level == b'\x02'


# Images

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def padded(frame, encoding, padding, big_endian=False):
    """An image message whose rows end with `padding` bytes of rubbish."""
    frame = frame.astype(frame.dtype.newbyteorder('>' if big_endian else '<'))
    rows = np.frombuffer(frame.tobytes(), np.uint8).reshape(len(frame), -1)
    data = np.concatenate([rows, np.full((len(frame), padding), 170, np.uint8)], axis=1)
    return Image(height=frame.shape[0], width=frame.shape[1], encoding=encoding,
                 is_bigendian=int(big_endian), step=data.shape[1],
                 data=array('B', data.tobytes()))


@pytest.mark.parametrize('padding', [0, 3, 64])
@pytest.mark.parametrize('encoding, frame', [
    ('rgb8', RGB), ('bgr8', RGB[..., ::-1]),
    ('rgba8', np.dstack([RGB, RGB[..., 0]])),
    ('bgra8', np.dstack([RGB[..., ::-1], RGB[..., 0]]))])
def test_colour_images_of_every_layout(encoding, frame, padding):
    got = messages.image_rgb(over_the_wire(padded(frame, encoding, padding)))
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, RGB)


def test_grey_images_become_colour():
    got = messages.image_rgb(padded(RGB[..., 0], 'mono8', 1))
    np.testing.assert_array_equal(got, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('padding', [0, 5])
def test_depth_in_metres_whatever_the_byte_order(big_endian, padding):
    metres = np.array([[0.0, 1.5, 2.25], [65.0, 0.001, 4.0]], np.float32)
    floats = padded(metres, '32FC1', padding, big_endian)
    np.testing.assert_array_equal(messages.image_depth_m(floats), metres)
    millimetres = padded((metres * 1000).round().astype(np.uint16), '16UC1', padding, big_endian)
    got = messages.image_depth_m(millimetres)
    assert got.dtype == np.float32 and got.dtype.isnative
    np.testing.assert_allclose(got, metres, rtol=1e-6)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', '16UC1', '32FC1'])
def test_frames_survive_the_wire(encoding):
    kind, channels = {'16UC1': ('u2', 1), '32FC1': ('f4', 1), 'mono8': ('u1', 1)}.get(
        encoding, ('u1', 4 if 'a8' in encoding else 3))
    shape = (4, 6) if channels == 1 else (4, 6, channels)
    frame = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    message = over_the_wire(messages.image(frame[::-1], encoding, STAMP_NS, 'camera'))
    assert (message.height, message.width) == (4, 6)
    back = np.frombuffer(message.data, kind).reshape(shape)
    np.testing.assert_array_equal(back, frame[::-1])
    assert messages.time_ns(message.header.stamp) == STAMP_NS


@pytest.mark.parametrize('encoding', ['bayer_rggb8', 'yuv422', 'jpeg', '', '16UC1', 'rgb16'])
def test_other_encodings_are_named(encoding):
    message = padded(RGB, 'rgb8', 0)
    message.encoding = encoding
    with pytest.raises(UserError, match='publish one of rgb8, bgr8'):
        messages.image_rgb(message)


def test_depth_of_another_encoding_is_named():
    with pytest.raises(UserError, match="'rgb8'; publish 16UC1 or 32FC1"):
        messages.image_depth_m(padded(RGB, 'rgb8', 0))


@pytest.mark.parametrize('field, value', [
    ('step', 20), ('height', 6), ('height', 0), ('width', 0), ('width', 8),
    ('data', array('B', b'short'))])
def test_images_that_do_not_add_up_are_refused(field, value):
    message = padded(RGB, 'rgb8', 0)
    setattr(message, field, value)
    with pytest.raises(UserError, match='does not add up'):
        messages.image_rgb(message)


@pytest.mark.parametrize('frame, encoding', [
    (RGB, 'mono8'), (RGB[..., 0], 'rgb8'), (RGB.astype(np.float32), 'rgb8'),
    (RGB[..., 0], '16UC1'), (RGB, 'yuv422'), (RGB[0, 0], 'rgb8')])
def test_frames_that_are_not_of_their_encoding_are_refused(frame, encoding):
    with pytest.raises(UserError):
        messages.image(frame, encoding, STAMP_NS, 'camera')
