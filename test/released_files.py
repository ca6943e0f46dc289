"""VLN-Ego as other programs publish it, made of the embedded simulator's pictures.

The layout is that of the published files; the wording of the prompt is ours.
"""
import json
import shutil

from training.ego_dataset import EgoDataset
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.memory import Average
from vlnr1_ros.navigation.prompt import Template

SAYS = ActionSet(turn_deg=30.0)
OPTIONS = ''.join(f'\n{phrase}.' for phrase in SAYS.phrases)
TEMPLATE = Template("You are somebody's robot. The order is '{instruction}'.\n- Before: {history} "
                    '(at most 5)\n- Now: {current}\n\nName the next three actions.' + OPTIONS, ' ')
HORIZON, HISTORY = 3, 5
BASE = 'elsewhere/data'


def write_folders(ego, split, root):
    """Raw episode folders below `root` of the VLN-Ego samples in `ego`; returns the records."""
    records = EgoDataset(ego, split).episodes
    for record in records:
        folder = root / record.folder.parent.name / record.folder.name
        folder.mkdir(parents=True)
        for path in record.folder.glob('step_*.jpg'):
            shutil.copy(path, folder)
        (folder / 'instruction.txt').write_text(record.instruction + ' ')
        (folder / 'action_list.json').write_text(json.dumps(record.actions.tolist()))
    return records


def rows(records, offset=1, prompt=TEMPLATE.conversation):
    """The list of a conversation JSON; label k of frame t is action t + k + offset."""
    found = []
    for record in records:
        padded = [*record.actions.tolist(), *[int(Action.STOP)] * (HORIZON + offset)]
        for t in range(len(record)):
            history = Average(HISTORY).indices(t)
            found.append({
                'conversations': [
                    {'from': 'human',
                     'value': prompt(record.instruction, len(history), SAYS, HORIZON)},
                    {'from': 'gpt',
                     'value': SAYS.encode(padded[t + offset:t + offset + HORIZON])}],
                'images': [f'{BASE}/{record.folder.parent.name}/{record.folder.name}/step_{i}.jpg'
                           for i in [*history, t]]})
    return found


def python_repr(instruction, history_count, action_set, n):
    """Another program's prompt: a quoted repr, and a word where the history is empty."""
    text = TEMPLATE.conversation('\0', history_count, action_set, n)
    text = text.replace("'\0'", repr(instruction))
    return text if history_count else text.replace('Before: ', 'Before: None')
