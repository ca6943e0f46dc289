"""Images of encodings that the converter does not know, by cv_bridge where there is one."""
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sensor_msgs.msg import Image

from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import messages
from vlnr1_ros.nodes.bridged import COLOUR, colour

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


class Bridge:
    """In the place of cv_bridge's, which is not on PyPI, with its call as documented."""

    def imgmsg_to_cv2(self, message, desired_encoding):
        assert desired_encoding == 'rgb8'
        if message.encoding == 'yuv422':
            return np.asfortranarray(RGB)
        raise RuntimeError(f'[{message.encoding}] is not a color format')


@pytest.fixture
def bridge(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', SimpleNamespace(CvBridge=Bridge))


def test_cv_bridge_reads_what_is_not_known(bridge):
    got = colour(Image(encoding='yuv422'))
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, RGB)


def test_cv_bridge_is_not_asked_for_what_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    np.testing.assert_array_equal(colour(messages.image(RGB, 'rgb8', 0, '')), RGB)
    for depth in ('16UC1', '32FC1'):
        with pytest.raises(UserError, match=f'{depth!r} is not a colour image'):
            colour(Image(encoding=depth))


def test_what_cv_bridge_cannot_read_is_one_clear_error(bridge):
    with pytest.raises(UserError, match="'smoke' .*not a color format.*publish one of rgb8, bgr8"):
        colour(Image(encoding='smoke'))


def test_without_cv_bridge_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(UserError, match="'yuv422' .*not installed; publish one of rgb8, bgr8"):
        colour(Image(encoding='yuv422'))


def test_a_cv_bridge_that_does_not_load_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
    (tmp_path / 'cv_bridge.py').write_text('raise AttributeError("_ARRAY_API not found")')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match='_ARRAY_API not found.*publish one of rgb8'):
        colour(Image(encoding='yuv422'))


@pytest.mark.parametrize('encoding', COLOUR)
def test_every_colour_encoding_is_known_to_the_converter(encoding):
    channels = {'mono8': 1, 'rgba8': 4, 'bgra8': 4}.get(encoding, 3)
    frame = np.full((4, 6, channels), 7, np.uint8)
    got = colour(messages.image(frame, encoding, 0, ''))
    assert got.shape == (4, 6, 3) and (got == 7).all()
