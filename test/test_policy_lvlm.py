import json
import shutil
from dataclasses import replace
from itertools import product

import pytest
import torch
from tiny_checkpoints import CASE_IDS, CASES, CORPUS, build, card_for, history_of
from transformers import AutoModelForImageTextToText

from training.checkpoint import save_checkpoint
from training.tiny import KINDS, build_model, build_tiny
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.load import load_policy
from vlnr1_ros.policy.lvlm import LvlmPolicy, load_model

INSTRUCTION = 'Go to the red chair and stop beside it.'
OTHER_INSTRUCTION = 'Go to the blue chair and stop beside it.'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """One checkpoint folder for each case, never written to."""
    root = tmp_path_factory.mktemp('checkpoints')
    return {
        case: build(root / name, *case, stop_bias=-0.5) for case, name in zip(CASES, CASE_IDS)
    }


@pytest.fixture
def copy(folders, tmp_path):
    """A checkpoint folder of its own to spoil."""
    return shutil.copytree(folders['qwen2_vl', True], tmp_path / 'copy')


def with_card(policy: LvlmPolicy, **changes) -> LvlmPolicy:
    policy.card = replace(policy.card, **changes)
    return policy


def next_logits(policy, history, answer=()) -> torch.Tensor:
    """Logits of the token behind prompt and `answer`, from one whole forward pass."""
    inputs = dict(policy.inputs(history))
    tail = torch.tensor([list(answer)], dtype=torch.long)
    inputs['input_ids'] = torch.cat([inputs['input_ids'], tail], 1)
    inputs['attention_mask'] = torch.ones_like(inputs['input_ids'])
    inputs['mm_token_type_ids'] = torch.cat([inputs['mm_token_type_ids'], 0 * tail.int()], 1)
    with torch.no_grad():
        return policy.model(**inputs).logits[0, -1].float()


def plan_by_hand(policy, history) -> list[Action]:
    """Greedy choice among the tokens that begin a legal answer, every step a whole forward."""
    card, tokenizer = policy.card, policy.processor.tokenizer
    legal = [
        tokenizer(card.action_set.encode(actions))['input_ids']
        for actions in product(Action, repeat=card.horizon)
        if all(b == Action.STOP for a, b in zip(actions, actions[1:]) if a == Action.STOP)
    ]
    # In these tokenizers the token that holds the letter D decides for stop.
    stops = {i for t, i in tokenizer.get_vocab().items() if t in ('D', 'ĠD') or 'D. Stop' in t}
    answer = []
    while answer not in legal:
        step = len(answer)
        allowed = sorted({ids[step] for ids in legal if ids[:step] == answer})
        logits = next_logits(policy, history, answer)
        for token in stops & set(allowed):
            logits[token] += card.stop_bias
        answer.append(max(allowed, key=lambda token: logits[token].item()))
    return card.action_set.decode(tokenizer.decode(answer))


@pytest.mark.parametrize('case', CASES, ids=CASE_IDS)
def test_plan_is_the_greedy_choice_among_legal_tokens(folders, case):
    policy = load_policy(folders[case], device='cpu')
    plans = set()
    for seed, bias in enumerate([-3.0, -0.5, 0.0, 0.5]):
        with_card(policy, stop_bias=bias).reset(INSTRUCTION)
        history = history_of(policy.card, 2 + seed, seed)
        plan = policy.plan(history)
        assert plan == plan_by_hand(policy, history)
        plans.add(tuple(plan))
    assert len(plans) > 1


@pytest.mark.parametrize('phrase_tokens', [True, False])
def test_stop_bias_tips_the_choice_at_its_own_size(folders, phrase_tokens):
    policy = load_policy(folders['qwen2_vl', phrase_tokens], device='cpu')
    policy.reset(INSTRUCTION)
    history = history_of(policy.card)
    logits = next_logits(policy, history)
    *others, stop = (tokens[0] for tokens in policy.grammar.first)
    margin = (logits[others].max() - logits[stop]).item()
    assert with_card(policy, stop_bias=margin + 1e-3).plan(history) == [Action.STOP] * 3
    assert with_card(policy, stop_bias=margin - 1e-3).plan(history)[0] != Action.STOP


@pytest.mark.parametrize('kind', KINDS)
def test_half_precision_on_disk_rounds_the_weights_and_nothing_else(tmp_path, kind):
    folder = build(tmp_path / 'half', kind)
    policy = load_policy(folder, device='cpu')
    assert policy.model.dtype == torch.float32
    assert AutoModelForImageTextToText.from_pretrained(folder, dtype='auto').dtype == torch.float16
    model = build_model(kind, policy.processor.tokenizer)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    model.set_attn_implementation(policy.model.config._attn_implementation)
    policy.reset(INSTRUCTION)
    history = history_of(policy.card)
    loaded = next_logits(policy, history)
    policy.model = model.eval()
    assert torch.equal(next_logits(policy, history), loaded)


@pytest.mark.parametrize('case', CASES, ids=CASE_IDS)
def test_saved_again_it_plans_the_same(folders, tmp_path, case):
    policy = load_policy(folders[case], device='cpu')
    save_checkpoint(policy.model, policy.processor, policy.card, tmp_path / 'again')
    again = load_policy(tmp_path / 'again', device='cpu')
    assert again.card == policy.card
    for seed in range(2):
        history = history_of(policy.card, 4, seed)
        for each in (policy, again):
            each.reset(INSTRUCTION)
        assert torch.equal(next_logits(policy, history), next_logits(again, history))
        assert policy.plan(history) == again.plan(history)


@pytest.mark.parametrize('kind', KINDS)
def test_stored_precision_plans_too(folders, kind):
    exact = load_policy(folders[kind, True], device='cpu')
    half = load_policy(folders[kind, True], device='cpu', dtype='auto')
    assert half.model.dtype == torch.float16
    history = history_of(exact.card)
    for policy in (exact, half):
        policy.reset(INSTRUCTION)
    assert torch.allclose(next_logits(half, history), next_logits(exact, history), atol=0.03)
    assert len(half.plan(history)) == 3


@pytest.mark.parametrize('kind', KINDS)
def test_words_and_frames_change_the_logits(folders, kind):
    policy = load_policy(folders[kind, True], device='cpu')
    history = history_of(policy.card, 4)
    policy.reset(INSTRUCTION)
    logits = next_logits(policy, history)
    assert torch.equal(logits, next_logits(policy, history))
    now_other = history_of(policy.card, 4)
    now_other._frames[3] = 255 - now_other._frames[3]
    past_other = history_of(policy.card, 4)
    past_other._frames[0] = 255 - past_other._frames[0]
    for other in (now_other, past_other):
        assert (next_logits(policy, other) - logits).abs().max() > 1e-3
    policy.reset(OTHER_INSTRUCTION)
    assert (next_logits(policy, history) - logits).abs().max() > 1e-3


def test_blind_sees_black_frames(folders):
    policy = load_policy(folders['qwen2_vl', True], device='cpu')
    policy.reset(INSTRUCTION)
    history, black = history_of(policy.card, 4), history_of(policy.card, 4)
    for frame in black._frames.values():
        frame[:] = 0
    seen, dark = next_logits(policy, history), next_logits(policy, black)
    assert not torch.allclose(seen, dark, atol=1e-3)
    with_card(policy, blind=True)
    assert torch.equal(next_logits(policy, history), dark)
    assert history.current.any()


def test_sampling_settings_of_the_checkpoint_are_not_used(folders, copy):
    (copy / 'generation_config.json').write_text(json.dumps({
        'do_sample': True, 'temperature': 5.0, 'repetition_penalty': 3.0, 'min_new_tokens': 9,
        'eos_token_id': 3,
    }))
    plans = []
    for folder in (folders['qwen2_vl', True], copy):
        policy = with_card(load_policy(folder, device='cpu'), stop_bias=-9.0)
        policy.reset(INSTRUCTION)
        plans.append([policy.plan(history_of(policy.card, 4, seed)) for seed in range(3)])
    assert plans[0] == plans[1]


def test_adapter_is_applied_to_its_base(folders, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = folders['qwen2_vl', False]
    torch.manual_seed(1)
    model = get_peft_model(load_model(base, torch.float32), LoraConfig(
        r=4, target_modules=['q_proj', 'v_proj', 'down_proj'], init_lora_weights=False,
        base_model_name_or_path=str(base),
    )).eval()
    model.save_pretrained(tmp_path)
    card_for('qwen2_vl').save(tmp_path)
    adapted, plain = load_policy(tmp_path, device='cpu'), load_policy(base, device='cpu')
    history = history_of(plain.card)
    for policy in (adapted, plain):
        policy.reset(INSTRUCTION)
    merged, untouched = next_logits(adapted, history), next_logits(plain, history)
    plain.model = model
    assert torch.allclose(merged, next_logits(plain, history), atol=1e-4)
    assert (merged - untouched).abs().max() > 1e-2
    assert len(adapted.plan(history)) == 3


def adapter(folder, base, named):
    """An adapter made for `base` that says it was made for `named`."""
    from peft import LoraConfig, get_peft_model

    model = load_model(base, torch.float32)
    get_peft_model(model, LoraConfig(r=4, target_modules=['q_proj'])).save_pretrained(folder)
    config = json.loads((folder / 'adapter_config.json').read_text())
    config['base_model_name_or_path'] = str(named)
    (folder / 'adapter_config.json').write_text(json.dumps(config))
    card_for('qwen2_vl').save(folder)
    return folder


@pytest.mark.parametrize('other', ['more layers', 'wider', 'another architecture'])
def test_adapter_of_another_base_is_refused(folders, tmp_path, other):
    if other == 'another architecture':
        made_for = folders['qwen3_vl', True]
    else:
        sizes = {'more layers': {'layers': 6}, 'wider': {'hidden': 160}}[other]
        made_for = tmp_path / 'other'
        build_tiny('qwen2_vl', made_for, CORPUS, card_for('qwen2_vl'), **sizes)
    folder = adapter(tmp_path / 'adapter', made_for, folders['qwen2_vl', True])
    with pytest.raises(UserError, match='adapter (was made for another base|cannot be loaded)') \
            as caught:
        load_policy(folder, device='cpu')
    assert '\n' not in str(caught.value)


def test_wrong_use_is_refused(folders):
    policy = load_policy(folders['qwen2_vl', True], device='cpu')
    with pytest.raises(UserError, match='call reset first'):
        policy.plan(history_of(policy.card))
    with pytest.raises(UserError, match='is empty'):
        policy.reset(' ')
    with pytest.raises(UserError, match=r'<\|image_pad\|>.* markup'):
        policy.reset('go to <|image_pad|> the chair')
    policy.reset(INSTRUCTION)
    with pytest.raises(UserError, match='history is empty'):
        policy.plan(history_of(policy.card, 0))
    with pytest.raises(UserError, match='96x96 pixels, the model takes 84x84'):
        policy.plan(history_of(card_for('qwen3_vl')))


def spoil_card(folder):
    (folder / 'navigation.json').unlink()


def spoil_architecture(folder):
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, 'model_type': 'llava'}))


def spoil_config(folder):
    (folder / 'config.json').unlink()


def spoil_weights(folder):
    (folder / 'model.safetensors').unlink()


def cut_weights(folder):
    whole = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(whole[:len(whole) // 2])


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / 'model.safetensors')
    weights.pop(next(name for name in weights if 'layers.1.mlp.up_proj' in name))
    save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})


def other_sizes(folder):
    config = json.loads((folder / 'config.json').read_text())
    config['text_config']['intermediate_size'] = 64
    (folder / 'config.json').write_text(json.dumps(config))


def other_turn(folder):
    card_for('qwen2_vl', action_set=ActionSet(turn_deg=15)).save(folder)


def other_phrase(folder):
    card = json.loads((folder / 'navigation.json').read_text())
    card['actions']['turn_deg'] = 15.0
    (folder / 'navigation.json').write_text(json.dumps(card))


def lost_base(folder):
    (folder / 'adapter_config.json').write_text('{}')


def broken_adapter(folder):
    (folder / 'adapter_config.json').write_text('{')


def broken_tokenizer(folder):
    (folder / 'tokenizer.json').write_text('{')


def moved_base(folder):
    base = str(folder / 'gone')
    (folder / 'adapter_config.json').write_text(json.dumps({'base_model_name_or_path': base}))


@pytest.mark.parametrize('spoil, message', [
    (spoil_card, 'vlnr1 card'),
    (spoil_architecture, "'llava' model; supported are qwen2_vl, qwen2_5_vl, qwen3_vl"),
    (spoil_config, 'config.json'),
    (spoil_weights, 'model.safetensors'),
    (cut_weights, 'cannot be loaded'),
    (drop_a_weight, 'lacks 1 weights, for example .*layers.1.mlp.up_proj'),
    (other_sizes, 'cannot be loaded'),
    (other_turn, "made for 'B. Turn left 30 degrees'"),
    (other_phrase, 'disagrees'),
    (moved_base, 'gone: the model cannot be loaded'),
    (lost_base, 'names no base_model_name_or_path'),
    (broken_adapter, 'adapter_config.json cannot be read'),
    (broken_tokenizer, 'no readable tokenizer'),
])
def test_spoilt_checkpoint_gives_one_clear_line(copy, spoil, message):
    spoil(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(copy, device='cpu')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('device', ['gpu', 'cuda:99', 'meta:x'])
def test_a_device_that_is_not_there_is_named(folders, device):
    with pytest.raises(UserError, match=f"device '{device}' cannot be used"):
        load_policy(folders['qwen2_vl', True], device=device)
