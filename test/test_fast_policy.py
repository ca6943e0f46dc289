"""Fast decisions against the plain way, on every architecture."""
import queue
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_checkpoints import CASE_IDS, CASES, build

from training.decide_variants import gap
from training.tiny import KINDS
from vlnr1_ros.motion.plan import Pose
from vlnr1_ros.motion.stuck import IGNORE, StuckRule
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Average, Exponential, Growing, History, LongShort
from vlnr1_ros.navigation.prompt import Template
from vlnr1_ros.nodes.decision import Decider
from vlnr1_ros.nodes.pilot import Pilot
from vlnr1_ros.policy.load import load_policy
from vlnr1_ros.policy.lvlm import LvlmPolicy
from vlnr1_ros.policy.prompt_rows import PromptRows

INSTRUCTION = 'Go to the red chair and stop beside it.'
GROWING = Growing(stride=1, long_stride=2, block=4, max_frames=4)
CLOSE = 1e-4  # two best scores nearer than this may change places by rounding


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A checkpoint for each case, with frames wider than high: horizon 4, growing history."""
    root, made = tmp_path_factory.mktemp('checkpoints'), {}
    for case, name in zip(CASES, CASE_IDS):
        tile = 32 if case[0] == 'qwen3_vl' else 28
        made[case] = build(root / name, *case, sampler=GROWING, horizon=4, stop_bias=-0.5,
                           frame_width=3 * tile, frame_height=2 * tile)
    return made


def load(folder, **options):
    return load_policy(folder, device='cpu', **options)


def frames_of(card, count, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, card.frame_height, card.frame_width, 3), np.uint8)


def empty(card, **options):
    return History(card.frame_width, card.frame_height, **options)


def assert_same(policy, history, plan):
    """The plan is the plain way's, or there it was a matter of rounding."""
    plain = LvlmPolicy.plan(policy, history)
    if plan != plain:
        distance = gap(policy, history, plain, plan)
        print(f'{plain} and {plan}: gap {distance:.1e}')
        assert distance < CLOSE


def run(policy, execute, count=13, seed=0):
    """Decide along made-up frames; yields (history, plan) for each decision."""
    policy.reset(f'{INSTRUCTION[:-1]}, number {seed}.')
    history = empty(policy.card)
    for number, frame in enumerate(frames_of(policy.card, count, seed)):
        history.add(frame)
        if number % execute == 0:
            yield history, policy.plan(history)


@pytest.mark.parametrize('case', CASES, ids=CASE_IDS)
def test_every_decision_is_the_plain_one(folders, case):
    policy, plans = load(folders[case]), set()
    # with 13 frames the history is rebuilt three times
    for seed, (execute, count) in enumerate([(1, 13), (2, 13), (3, 10), (1, 3), (1, 3), (1, 3)]):
        for history, plan in run(policy, execute, count, seed):
            assert_same(policy, history, plan)
            plans.add(tuple(plan))
    assert len(plans) > 1


@pytest.mark.parametrize('sampler', [LongShort(2, 1, 2, 4), Average(3), Exponential(3)],
                         ids=lambda sampler: type(sampler).__name__)
def test_a_history_that_cannot_append_is_decided_too_and_said_so(
        folders, tmp_path, capsys, sampler):
    policy = load(build(tmp_path / 'other', sampler=sampler))
    assert 'keys and values of its frames are not reused' in capsys.readouterr().err
    for history, plan in run(policy, 1, 9):
        assert_same(policy, history, plan)
    load(folders['qwen2_vl', True])
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('kind', KINDS)
def test_positions_are_the_librarys(folders, kind):
    policy = load(folders[kind, False])
    policy.reset(INSTRUCTION)
    history = empty(policy.card)
    for frame in frames_of(policy.card, 4):
        history.add(frame)
    inputs = policy.inputs(history)
    expected, _ = policy.model.model.get_rope_index(
        inputs['input_ids'], mm_token_type_ids=inputs['mm_token_type_ids'],
        image_grid_thw=inputs['image_grid_thw'])
    seen = []
    policy.model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs['position_ids']), with_kwargs=True)
    policy.prompts = PromptRows(policy.model, 1)
    # in two passes, so that the second begins behind kept keys
    pieces = policy._prompts({0: history})[0]
    with torch.no_grad():
        policy.prompts.feed({0: pieces[:4]})
        policy.prompts.feed({0: pieces[4:]})
    assert torch.equal(torch.cat(seen, 2), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_every_frame_is_encoded_once_and_in_one_batch(folders, kind):
    policy, batches = load(folders[kind, True]), []
    policy.model.model.visual.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(len(kwargs['grid_thw'])), with_kwargs=True)
    for _ in run(policy, 3):
        pass
    # frames 0, 3, 6, ... are decided on; those between enter with the next decision
    assert batches == [1, 3, 3, 3, 3]


def test_features_live_as_long_as_their_frames(folders):
    policy = load(folders['qwen2_vl', True])
    policy.reset(INSTRUCTION)
    history = empty(policy.card, exact_frames=8)
    for frame in frames_of(policy.card, 40):
        history.add(frame)
        policy.plan(history)
        assert len(policy.encoder) <= 8
    assert len(policy.encoder) > 4
    del history, frame
    assert len(policy.encoder) == 0


def test_only_what_is_new_is_computed(folders):
    policy, widths = load(folders['qwen2_vl', True]), []
    policy.model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs['inputs_embeds'].shape[1]), with_kwargs=True)
    per_decision = []
    for _ in run(policy, 1):
        per_decision.append(sum(widths))
        widths.clear()
    new_frame, rest = 6 + 2, 4 + 3 + 2 + 1
    grown = [per_decision[i] for i in range(1, 13) if GROWING.rebuilt(i) == GROWING.rebuilt(i - 1)]
    assert len(grown) >= 8 and max(grown) <= new_frame + rest + 4
    rebuilt = per_decision[8]
    assert rebuilt >= 5 * new_frame


def passes_of(policy, draft, history):
    passes = []
    hook = policy.model.model.language_model.register_forward_hook(
        lambda *_: passes.append(None))
    policy.episodes[0].plan, policy.episodes[0].frames = draft, len(history)
    plan = policy.plan(history)
    hook.remove()
    return len(passes), plan


@pytest.mark.parametrize('phrase_tokens', [True, False])
def test_a_draft_decides_how_long_it_takes_and_nothing_else(folders, phrase_tokens):
    policy = load(folders['qwen2_vl', phrase_tokens])
    random = np.random.default_rng(0)
    for seed in range(4):
        [(history, plan)] = run(policy, 1, 1, seed)
        assert passes_of(policy, plan, history) == (1, plan)
        assert passes_of(policy, [], history)[1] == plan
        for _ in range(6):
            draft = [Action(a) for a in random.integers(1, 4, random.integers(1, 5))]
            passes, found = passes_of(policy, draft, history)
            # n actions cost at most n passes, however long their phrases are
            assert found == plan and passes <= policy.card.horizon


def test_a_frame_is_known_by_itself_and_not_by_its_tokens(folders):
    policy = load(folders['qwen2_vl', False])
    policy.reset(INSTRUCTION)
    plans = Counter()
    # the same number of frames, so the same token ids, and no reset between
    for seed in range(6):
        history = empty(policy.card)
        for frame in frames_of(policy.card, 4, seed):
            history.add(frame)
        plan = policy.plan(history)
        assert_same(policy, history, plan)
        plans[tuple(plan)] += 1
    assert len(plans) > 1


@pytest.mark.parametrize('kind', KINDS)
def test_rows_decide_as_if_alone(folders, kind):
    together, alone = load(folders[kind, False], rows=3), load(folders[kind, False])
    histories = {row: empty(alone.card) for row in range(3)}
    for row in histories:
        together.reset(f'Go to chair {row}{" over there" * row}.', row=row)
    for step in range(9):
        for row, history in histories.items():
            # rows of different lengths, one of which ends early
            for frame in frames_of(alone.card, 1 + (row + step) % 2, 10 * step + row):
                history.add(frame)
        asked = {row: histories[row] for row in histories if not (row == 1 and step > 5)}
        plans = together.plan_rows(asked)
        assert plans.keys() == asked.keys()
        for row in asked:
            alone.reset(together.episodes[row].instruction)
            assert_same(alone, histories[row], plans[row])


def test_a_row_can_begin_another_episode(folders):
    policy = load(folders['qwen2_vl', True], rows=2)
    for seed in range(3):
        policy.reset('Go to the blue table.', row=1)
        policy.reset(f'Leave room {seed}.', row=0)
        histories = {row: empty(policy.card) for row in range(2)}
        for step in range(3):
            for row, history in histories.items():
                history.add(frames_of(policy.card, 1, 100 * seed + 10 * step + row)[0])
            plans = policy.plan_rows(histories)
            assert_same(policy, histories[0], plans[0])


def test_black_frames_of_the_blind(folders):
    policy = load(folders['qwen2_vl', True])
    policy.card = replace(policy.card, blind=True)
    for history, plan in run(policy, 1, 5):
        assert_same(policy, history, plan)
        assert history.current.any()


@pytest.mark.parametrize('kind', KINDS)
def test_bfloat16(folders, kind):
    policy = load(folders[kind, False], dtype=torch.bfloat16)
    same = [plan == LvlmPolicy.plan(policy, history) for history, plan in run(policy, 1)]
    # rounding may change a choice here and there
    assert sum(same) >= 0.7 * len(same)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize('kind', KINDS)
def test_compiled(folders, kind):
    plain, compiled = load(folders[kind, False]), load(folders[kind, False], compiled=True)
    assert compiled.model.model.language_model._compiled_call_impl is not None
    for history, plan in run(compiled, 1):
        plain.reset(compiled.episodes[0].instruction)
        assert_same(plain, history, plan)


@pytest.mark.parametrize('failures, ends_well', [(1, True), (2, False)])
def test_out_of_memory_is_tried_again_with_empty_caches(folders, monkeypatch, failures, ends_well):
    policy = load(folders['qwen2_vl', True])
    decisions = list(run(policy, 1, 6))
    history, plan = decisions[-1]
    left, freed = failures, []

    def forward(*args, **kwargs):
        nonlocal left
        assert all(held() is None for held in freed), 'the next try has its memory'
        if left:
            left -= 1
            activations = torch.zeros(3)
            freed.append(weakref.ref(activations))
            raise torch.OutOfMemoryError('CUDA out of memory. Tried 2 GiB.\nmore')
        return whole(*args, **kwargs)

    whole = policy.model.model.language_model.forward
    monkeypatch.setattr(policy.model.model.language_model, 'forward', forward)
    if ends_well:
        assert policy.plan(history) == plan
        assert len(policy.encoder) == len(history.sample(policy.card.sampler)[0])
    else:
        with pytest.raises(UserError, match='out of memory on cpu, even with empty caches .* 2 G'):
            policy.plan(history)
        assert len(policy.encoder) == 0
        assert policy.plan(history) == plan  # memory may be there again


def test_out_of_memory_leaves_a_robot_at_rest(folders, monkeypatch):
    policy = load(folders['qwen2_vl', True])

    def forward(*args, **kwargs):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(policy.model.model.language_model, 'forward', forward)
    card, answers = policy.card, queue.SimpleQueue()
    frame = frames_of(card, 1)[0]
    pilot = Pilot(card, 1, 0.0, lambda image: frame, lambda stamp_ns: Pose(0.0, 0.0, 0.0),
                  StuckRule(card.action_set, IGNORE, 360.0, 1))
    decider = Decider(policy, answers.put)
    pilot.instruct(INSTRUCTION, 0)
    pilot.image(10, None)
    decider.ask(pilot.question(), 0)
    pilot.answer(answers.get(timeout=60))
    decider.close()
    assert pilot.state == 'failed' and 'out of memory on cpu' in pilot.reason
    # an empty plan: drop what you have and hold
    assert [plan.poses for plan in pilot.plans] == [[]]


def test_other_errors_are_not_taken_for_memory(folders, monkeypatch):
    policy = load(folders['qwen2_vl', True])

    def forward(*args, **kwargs):
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    monkeypatch.setattr(policy.model.model.language_model, 'forward', forward)
    with pytest.raises(RuntimeError, match='mat1'):
        list(run(policy, 1, 1))


@pytest.mark.parametrize('frame', [
    np.zeros((84, 56, 3), np.float32), np.zeros((84, 56, 4, 2), np.uint8), None,
    np.zeros((1, 999, 3), np.uint8),
], ids=['floats', '4-D', 'nothing', 'a line'])
def test_what_is_no_image_is_named(folders, frame):
    policy = load(folders['qwen2_vl', True])
    with pytest.raises(UserError, match='an image cannot be read .* frames are uint8'):
        policy.encoder.encode([frame])


def test_a_prompt_with_something_between_its_frames_is_decided_the_same(tmp_path):
    said = Template('Follow "{instruction}".\nBefore: {history}.\nNow: {current}\n{options}', ' ')
    policy = load(build(tmp_path / 'model', 'qwen2_vl', False, template=said, sampler=Average(3),
                        horizon=2))
    policy.reset(INSTRUCTION)
    history = empty(policy.card)
    for frame in frames_of(policy.card, 6):
        history.add(frame)
        assert_same(policy, history, policy.plan(history))
