"""The navigator as a process that hangs on SIGUSR1 and raises in a callback on SIGUSR2.

Everything else in it is the real one.
"""
import signal
import sys

from vlnr1_ros.nodes import navigator
from vlnr1_ros.nodes.pilot import Pilot

take_image = Pilot.image


def hang(*_):
    """Python calls this in the main thread, which is the executor's."""
    while True:
        pass


def raise_at_the_next_image(*_):
    def image(*_):
        Pilot.image = take_image
        raise RuntimeError('a defect')

    Pilot.image = image


if __name__ == '__main__':
    signal.signal(signal.SIGUSR1, hang)
    signal.signal(signal.SIGUSR2, raise_at_the_next_image)
    sys.exit(navigator.main())
