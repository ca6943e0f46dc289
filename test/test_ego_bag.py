"""Recordings of a robot into VLN-Ego samples."""
import json

import pytest
from recorder_process import RecorderProcess

from sim_bridge.ros.graph import Graph
from training import ego_bag, ego_check
from training.ego_dataset import EgoDataset

CARD = ('--card', 'models/nano', '--camera-height-m', '1.25')


def differences(first, second):
    """Least number of actions to put in, take out or change (Levenshtein)."""
    row = list(range(len(second) + 1))
    for k, a in enumerate(first, 1):
        last, row[0] = row[0], k
        for j, b in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@pytest.mark.soak
def test_recorded_expert_runs_come_back_as_the_experts_actions(apartments, tmp_path):
    """28 episodes through driver and bridge in velocity mode; see docs/results.md."""
    folder, out = tmp_path / 'recordings', tmp_path / 'own'
    ids = [str(k) for k in range(1, 29)]
    expert = []
    with Graph('expert', apartments.data, apartments.split, []) as graph:
        recorder = RecorderProcess(graph, folder)
        for k, episode in enumerate(ids):
            expert.append(graph.run(episode)['actions'])
            recorder.finished(k + 1)
        assert recorder.end() == 0
    bags = [str(path) for path in sorted(folder.glob('run_*'))]
    assert ego_bag.main([*bags, '--out', str(out), *CARD]) == 0
    driven = {record.meta['scene_id']: [int(action) for action in record.actions]
              for record in EgoDataset(out).episodes}
    steps = sum(len(actions) for actions in expert)
    wrong = sum(differences(actions, driven[bag.rpartition('/')[2]])
                for actions, bag in zip(expert, bags))
    equal = sum(actions == driven[bag.rpartition('/')[2]] for actions, bag in zip(expert, bags))
    print(json.dumps({'episodes': len(ids), 'equal': equal, 'steps': steps, 'wrong': wrong,
                      'same': round(1 - wrong / steps, 4)}))
    assert wrong <= 0.02 * steps
    assert ego_check.main([str(out), '--card', 'models/nano', '--episodes', '28']) == 0
