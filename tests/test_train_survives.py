"A run that is killed, over real processes: `fit` with checkpoints, alone and under `torchrun`; and what it refuses."
import os, random, signal, subprocess, sys, time
from itertools import islice, repeat
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from modscale.nets.checkpoint import Checkpoints, pack_state, unpack_state
from modscale.nets.distributed import FirstKeeps, ProcessGroup, process_group, share_of_batches, start_together
from modscale.nets.networks import ModularNet, MonolithicNet, random_projections
from modscale.nets.train import cross_entropy, fit, minibatches, mse
from killed_run import n, x, y
from test_wheel import installed, run, wheel  # noqa: F401, two of them are fixtures

root = Path(__file__).resolve().parents[1]
told = 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'
plain = {k: v for k, v in os.environ.items() if k not in told}
plain |= dict(PYTHONPATH=str(root), OMP_NUM_THREADS='1')

def train(store=None, steps=60, net=None, **options):
    net = net or ModularNet(random_projections(2, 2, 3), width=8)
    options = dict(validate=lambda net: mse(net(x), y), every=10) | options
    return net, fit(net, lambda done: islice(minibatches(x, y, n, 16), done, None), mse, steps, keep=store, **options)

def gap(a, b): return max((p - q).abs().max().item() for p, q in zip(a, b))

def step_of(folder): return max((int(f.name[5:17]) for f in folder.glob('step-*.ckpt')), default=0)

program = str(Path(__file__).with_name('killed_run.py'))

def torchrun(folder, *args):
    options = ['--standalone', '--nproc-per-node=2', '--max-restarts=0']
    command = [sys.executable, '-m', 'torch.distributed.run', *options, program, *map(str, args)]
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=200)

class At:
    "Keeps the states of the given steps in memory, and goes on from one."
    def __init__(self, *steps, start=None): self.steps, self.start, self.states = steps, start, {}
    def load(self): return self.start
    def due(self, step): return step in self.steps
    def save(self, state): self.states[state['step']] = state

def test_a_process_killed_at_random_steps_ends_with_the_same_weights(tmp_path):
    chance, killed = random.Random(0), 0
    for step in sorted(chance.sample(range(1, 350), 3)):
        command = [sys.executable, program, 'run', '400', '-1']
        p = subprocess.Popen(command, cwd=tmp_path, env=plain, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 100
        while step_of(tmp_path/'run') < step and p.poll() is None and time.monotonic() < end: time.sleep(1e-3)
        p.kill()
        killed += p.wait() == -signal.SIGKILL
    assert killed >= 2 and 0 < step_of(tmp_path/'run') < 400
    subprocess.run([sys.executable, program, 'run', '400', '-1'], cwd=tmp_path, env=plain, check=True, timeout=100)
    subprocess.run([sys.executable, program, 'straight', '400', '-1'], cwd=tmp_path, env=plain, check=True, timeout=100)
    ends = [torch.load(tmp_path/f'{name}-0.pt', weights_only=True) for name in ('run', 'straight')]
    assert gap(*ends) == 0

def test_two_processes_end_like_one_and_a_killed_one_ends_both(tmp_path):
    broken = torchrun(tmp_path, 'two', 60, 35)
    assert broken.returncode and 0 < step_of(tmp_path/'two') <= 35 and not list(tmp_path.glob('two-*.pt'))
    again = torchrun(tmp_path, 'two', 60, 50)                                   # goes on from there
    assert again.returncode and 'exitcode: -9' in again.stderr and 30 <= step_of(tmp_path/'two') <= 50, again.stderr
    done = torchrun(tmp_path, 'two', 60, -1)                                    # and once more
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path/f'two-{r}.pt', weights_only=True) for r in range(2))
    assert gap(first, second) == 0 < gap(first, list(train(steps=60)[0].parameters())) < 1e-5

def test_a_cut_checkpoint_read_by_the_installed_package(tmp_path, installed):  # noqa: F811
    straight, _ = train(Checkpoints(tmp_path/'run', minutes=0))
    older, newer = sorted((tmp_path/'run').iterdir())
    newer.write_bytes(newer.read_bytes()[:-1])
    older.rename(older.with_name('step-000000000040.ckpt'))                   # names do not decide what is in a file
    code = 'from modscale.nets.checkpoint import Checkpoints\nprint(Checkpoints("run").load()["step"])'
    said = run(installed, '-c', code, cwd=tmp_path)
    assert said.stdout == '59\n' and len(said.stderr.splitlines()) == 1
    assert 'step-000000000060.ckpt is damaged' in said.stderr
    assert newer.with_name(f'{newer.name}.damaged').exists()
    again, _ = train(Checkpoints(tmp_path/'run'))
    assert gap(again.parameters(), straight.parameters()) == 0

def test_a_full_disk_ends_the_run_and_leaves_what_was_kept(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path/'run', minutes=0)
    train(store, steps=5)
    before = {f.name: f.read_bytes() for f in store.files()}
    def full(handle): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='step-000000000009'): store.save(dict(step=9))
    assert {f.name: f.read_bytes() for f in (tmp_path/'run').iterdir()} == before

@pytest.mark.parametrize('kernel', [True, False])
def test_best_weights_seen_before_the_cut_are_kept(kernel, monkeypatch):
    if not kernel: monkeypatch.delattr(torch, '_fused_adam_')
    def worse(net): return -mse(net(x), y)                                    # best at the first look
    straight, done = train(kept := At(25), validate=worse)
    other = ModularNet(random_projections(2, 2, 3, seed=9), width=8, seed=9)
    net, later = train(At(start=kept.states[25]), net=other, validate=worse)
    assert done.best_step.tolist() == later.best_step.tolist() == [10, 10]
    assert gap(net.parameters(), straight.parameters()) == 0

dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])

@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(dtypes, st.lists(st.integers(0, 4), max_size=3)), max_size=4), st.floats(0, 1),
       st.integers(0, 7))
def test_a_packed_state_comes_back_and_any_damage_is_noticed(kinds, at, bit):
    g = torch.Generator().manual_seed(0)
    state = {f't{i}': (100*torch.randn(shape, generator=g)).to(dtype) for i, (dtype, shape) in enumerate(kinds)}
    data = pack_state(dict(state, step=3), dict(name='ü'))
    back, told = unpack_state(data)
    assert told == dict(name='ü') and back.pop('step') == 3 and back.keys() == state.keys()
    assert all(back[k].dtype == t.dtype and torch.equal(back[k], t) for k, t in state.items())
    i = int(at*(len(data) - 1))
    for damaged in (data[:i], data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1:], data + data[i:i + 1]):
        with pytest.raises(ValueError): unpack_state(damaged)

def test_bfloat16_with_labels():
    labels = (y > 0).long()
    ends = {}
    for precision in ('float32', 'bfloat16'):
        net = MonolithicNet(3, 2, 16, S=2)
        fit(net, repeat((x, labels)), cross_entropy, 200, precision=precision)
        with torch.no_grad(): ends[precision] = cross_entropy(net(x), labels)
        assert all(p.dtype == torch.float32 for p in net.parameters())
    assert 0 < (ends['float32'] - ends['bfloat16']).abs().max() < .05 and ends['bfloat16'].max() < .5

def test_what_is_refused(tmp_path):
    kept = At(5)
    train(kept, steps=10)
    again = At(start=kept.states[5])
    for options, match in ((dict(precision='half'), "precision='half'"), (dict(store=again, steps=11), 'steps=11'),
                           (dict(store=again, steps=10, validate=None), 'other tensors')):
        with pytest.raises(ValueError, match=match): train(**options)
    Checkpoints(tmp_path, settings=dict(a=1, lr=.1)).save(dict(step=1))
    with pytest.raises(ValueError, match=r'lr is 0\.1 there, and 0\.2 was'):
        Checkpoints(tmp_path, settings=dict(a=1, lr=.2)).load()
    for bad in (dict(minutes=-1), dict(keep=0), dict(keep=[1, 2]), dict(settings='no'), dict(settings=dict(f=len))):
        with pytest.raises(ValueError, match=next(iter(bad))): Checkpoints(tmp_path, **bad)
    with pytest.raises(ValueError, match='batch=16 and world=3'):
        fit(train(steps=1)[0], share_of_batches(minibatches(x, y, n, 16), ProcessGroup(0, 3)), mse, 1)
    with pytest.raises(ValueError, match='every=0'): FirstKeeps(kept, ProcessGroup(), every=0)
    with pytest.raises(ValueError, match="backend='mpi'"), process_group('mpi'): pass
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="backend='nccl'"), process_group('nccl'): pass

def test_one_process_needs_no_group():
    with process_group() as group:
        net = MonolithicNet(3, width=4)
        start_together(net, group)
        assert group.sync is None and FirstKeeps(At(10), group).due(10) and not FirstKeeps(At(11), group).due(11)
