"""One episode driven by velocities: navigator, driver and bridge as processes, without torch."""
import pytest

from sim_bridge.ros.graph import Graph

pytestmark = pytest.mark.smoke


def test_the_expert_drives_an_episode_by_velocities(apartments):
    with Graph('expert', apartments.data, apartments.split, ['1']) as graph:
        result, = graph.results()
    assert result['ended_by'] == 'stop'
    assert result['metrics']['success'] == 1.0 and result['metrics']['collisions'] == 0
    assert result['metrics']['steps_taken'] == len(result['actions']) > 3
