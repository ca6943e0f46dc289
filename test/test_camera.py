"""The live camera against the card's: what is cut off, and what is said."""
import math

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

from vlnr1_ros.navigation.camera import Camera, centre
from vlnr1_ros.nodes.camera_check import UNKNOWN, CameraCheck

CARD = Camera(640, 480, 60.0, 0.5)


@pytest.mark.parametrize('card, live, window', [
    (CARD, Camera(640, 480, 60.0), (640, 480)),
    (CARD, Camera(1280, 960, 60.0), (1280, 960)),
    # wider: 2 * (320 / tan 45) * tan 30 = 369.5 pixels, and as high as 4:3 makes it
    (CARD, Camera(640, 480, 90.0), (370, 278)),
    (CARD, Camera(1280, 720, 90.0), (739, 554)),
    # narrower: all of its width; rows only where the shape asks for fewer
    (CARD, Camera(640, 480, 45.0), (640, 480)),
    (CARD, Camera(640, 640, 45.0), (640, 480)),
    # not high enough for the shape: the width has precedence
    (CARD, Camera(1280, 300, 90.0), (739, 300)),
    (Camera(224, 224, 90.0), Camera(640, 480, 90.0), (640, 480)),
    (Camera(224, 224, 79.0), Camera(1, 1, 170.0), (1, 1))])
def test_the_centre_that_the_model_expects(card, live, window):
    assert card.window(live) == window


@pytest.mark.parametrize('hfov_deg', np.linspace(30.0, 150.0, 25))
@pytest.mark.parametrize('size', [(84, 84), (224, 224), (640, 480), (641, 361)])
def test_a_camera_as_the_card_says_is_shown_whole(hfov_deg, size):
    camera = Camera(*size, hfov_deg)
    through_ros = Camera.from_intrinsics(*size, camera.fx, 1.25)
    assert camera.window(through_ros) == size


@pytest.mark.parametrize('hfov_deg', [61.0, 90.0, 120.0, 150.0])
def test_what_is_left_is_the_field_of_view_of_the_card(hfov_deg):
    live = Camera(1280, 960, hfov_deg, 0.5)
    left = live.cropped(*CARD.window(live))
    assert left.hfov_deg == pytest.approx(60.0, abs=0.2)
    assert CARD.differences(left) == []


def test_a_point_keeps_its_direction():
    """A ray 20 degrees aside meets the same share of the image before and after."""
    live = Camera(1281, 961, 100.0)
    frame = np.zeros((961, 1281, 3), np.uint8)
    frame[:, 640 + round(live.fx * math.tan(math.radians(20.0)))] = 255
    cut = centre(frame, *CARD.window(live))
    share = np.flatnonzero(cut[0, :, 0])[0] / cut.shape[1]
    expected = 0.5 + math.tan(math.radians(20.0)) / math.tan(math.radians(30.0)) / 2
    assert share == pytest.approx(expected, abs=0.005)


def test_the_centre_is_the_middle():
    frame = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    np.testing.assert_array_equal(centre(frame, 3, 1), frame[2:3, 2:5])
    assert centre(frame, 7, 5).shape == frame.shape


def info(width, height, hfov_deg, frame_id='camera'):
    message = CameraInfo(width=width, height=height)
    message.k[0] = Camera(width, height, hfov_deg).fx
    message.header.frame_id = frame_id
    return message


def checked(live, height_m=0.0, crop=True, image=(480, 640), frame_id='camera'):
    check = CameraCheck(CARD, height_m, crop)
    if live is not None:
        check.hear(live)
    return check, check.fit(np.zeros((*image, 3), np.uint8), frame_id)


def test_a_wider_camera_is_cut_and_then_no_trouble():
    check, frame = checked(info(640, 480, 90.0))
    assert frame.shape == (278, 370, 3)
    assert check.trouble == ''
    assert check.text == ('640x480, hfov 90.0 deg, of which the model sees 370x278 and 60.1 deg')


def test_without_crop_a_wider_camera_is_named():
    check, frame = checked(info(640, 480, 90.0), crop=False)
    assert frame.shape == (480, 640, 3)
    assert check.trouble == 'hfov is 90.0 deg, the model expects 60.0 deg'


def test_a_narrower_camera_is_named_with_both_values():
    check, frame = checked(info(640, 480, 45.0))
    assert frame.shape == (480, 640, 3)
    assert check.trouble == 'hfov is 45.0 deg, the model expects 60.0 deg'


def test_binned_images_are_cut_by_the_same_share():
    check, frame = checked(info(1280, 960, 90.0), image=(240, 320))
    assert frame.shape == (139, 185, 3)
    assert check.trouble == ''


def test_shape_height_and_frames_are_compared():
    check, _ = checked(info(1280, 300, 90.0, 'left_camera'), height_m=1.2, image=(300, 1280),
                       frame_id='right_camera')
    for part in ('739x300', '640x480', '1.20 m', '0.50 m', "'left_camera'", "'right_camera'"):
        assert part in check.trouble


def test_what_is_not_known_is_said_and_nothing_cut():
    check = CameraCheck(CARD, 0.0, True)
    assert (check.trouble, check.text) == ('', 'unknown')
    check, frame = checked(None)
    assert frame.shape == (480, 640, 3) and check.trouble == UNKNOWN


@pytest.mark.parametrize('width, focal_px, said', [
    (640, 0.0, 'calibrate'), (640, math.nan, 'calibrate'), (0, 500.0, '0x480')])
def test_a_calibration_that_is_none_is_named(width, focal_px, said):
    message = CameraInfo(width=width, height=480)
    message.k[0] = focal_px
    check, frame = checked(message)
    assert said in check.trouble and frame.shape == (480, 640, 3)
    check.hear(info(640, 480, 60.0))
    assert check.trouble == ''
