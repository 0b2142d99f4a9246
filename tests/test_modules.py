"An alignment as an ordinary PyTorch module: what an ordinary user does with one must work, and start where it should."
import copy, io, re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from structure import cells, root

import modscale as ms
from modscale.nets.tasks import make_task
from modscale.rule import modules as made
from modscale.rule.align import align

@cache
def aligned():
    "A task with three modules, its samples, and their alignment."
    task = make_task('sine', 4, 3, 0)
    x, y = task.sample(300, 0)
    return task, x, y, align(x, y, 3)

def tensors():
    _, x, y, found = aligned()
    return torch.as_tensor(x).float(), torch.as_tensor(y).float()[:, None], found

def explained(predict):
    "R² on fresh samples."
    x, y = aligned()[0].sample(2000, 1)
    return 1 - np.mean((np.asarray(predict(x)).reshape(-1) - y)**2)/y.var()

def predictor(net):
    def predict(x):
        with torch.no_grad(): return net(torch.as_tensor(x).float())
    return predict

def tanh_body(b): return torch.nn.Sequential(torch.nn.Linear(b, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

both = pytest.mark.parametrize('body', [None, tanh_body], ids=['batched', 'each'])

def test_the_front_door():
    assert ms.modules is made.modules and ms.distill is made.distill and ms.aim_rows is made.aim_rows

@both
def test_it_is_the_sum_that_it_says(body):
    X, _, found = tensors()
    net = made.modules(found, body)
    z = X @ torch.as_tensor(found.U).T
    def one(j):
        if body: return net.bodies[j](z[:, j:j + 1])
        return net.bodies(z.T[:, :, None])[j]
    parts = torch.stack([one(j) for j in range(3)], 1)/3**.5*float(found.spread)
    linear = torch.as_tensor(found.linear(X.numpy()))[:, None]
    assert torch.allclose(net.effects(X), parts, atol=1e-5)
    assert torch.allclose(net(X), (parts.sum(1) + linear + float(found.center)).float(), atol=1e-4)

def test_parameters_are_those_that_it_needs_and_every_one_gets_a_gradient():
    X, Y, found = tensors()
    for body in (None, tanh_body):
        net = made.modules(found, body)
        (net(X) - Y).square().mean().backward()
        assert all(p.grad is not None and p.grad.any() for p in net.parameters())
        assert {name for name, _ in net.named_buffers()} == {'center', 'spread'}
    assert made.modules(found, linear=False).linear is None

def test_several_outputs_and_modules_of_two_coordinates():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 4))
    y = np.c_[np.tanh(x[:, 0]*x[:, 1]), np.tanh(x[:, 0] - x[:, 1]**2)]*[5, .1] + [3, -1]
    found = align(x, y, 1, b=2, starts=2, rounds=2)
    net = made.modules(found, K=2)
    X = torch.as_tensor(x).float()
    assert net.U.shape == (2, 2, 4) and net(X).shape == (400, 2) and net.effects(X).shape == (400, 2, 2)
    left = made.distill(net, found, x)
    assert left.shape == (1,) and left[0] < .02
    first, beyond = net.effects(X).detach().abs().amax((0, 2))
    assert beyond < .2*first
    gap = ((net(X).detach().numpy() - found.predict(x))/y.std(0))**2
    assert gap.mean() < .02
    layer = torch.nn.Linear(4, 6)
    made.aim_rows(layer, found)
    span = torch.as_tensor(found.U[0])
    assert torch.allclose(layer.weight @ span.T @ span, layer.weight, atol=1e-5)

def test_distillation_starts_the_network_at_the_kernel():
    _, x, _, found = aligned()
    net = made.modules(found)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    assert explained(predictor(net)) < .9
    left = made.distill(net, found, x)
    assert left.shape == (3,) and left.max() < .03 and explained(predictor(net)) > .9 and net.training
    moved = {name for name, p in net.state_dict().items() if not torch.equal(p, before[name])}
    assert moved and all(name.startswith('bodies.') for name in moved)
    assert all(p.grad is None for p in net.parameters())
    again = made.modules(found)
    assert np.array_equal(made.distill(again, found, x, steps=5), made.distill(made.modules(found), found, x, steps=5))
    fewer = made.modules(found, K=2)
    assert made.distill(fewer, found, x, steps=2).shape == (2,)

def test_distillation_leaves_frozen_parameters_and_the_mode_of_the_network():
    _, x, _, found = aligned()
    net = made.modules(found, tanh_body).eval()
    net.bodies[0].requires_grad_(False)
    first = copy.deepcopy(net.bodies[0].state_dict())
    made.distill(net, found, x, steps=5)
    assert not net.training and all(torch.equal(v, first[k]) for k, v in net.bodies[0].state_dict().items())
    def idle_body(b):
        body = tanh_body(b)
        body.idle = torch.nn.Parameter(torch.ones(1)) # which nothing uses
        return body
    assert made.distill(made.modules(found, idle_body), found, x, steps=5).shape == (3,)

def test_rows_are_turned_by_less_than_a_right_angle():
    found = aligned()[3]
    layer = torch.nn.Linear(4, 32)
    old, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    assert made.aim_rows(layer, found) is layer and torch.equal(layer.bias, bias)
    new = layer.weight.detach()
    assert torch.allclose(new.norm(dim=1), old.norm(dim=1)) and ((new*old).sum(1) > 0).all()
    cosine = torch.nn.functional.normalize(new) @ torch.as_tensor(found.U).T
    assert all(abs(float(cosine[i, i % 3])) > 1 - 1e-5 for i in range(32))
    with torch.no_grad(): layer.weight.zero_()
    assert torch.isfinite(made.aim_rows(layer, found).weight).all()
    assert made.aim_rows(torch.nn.Linear(4, 3, dtype=torch.float64), found).weight.dtype == torch.float64

def test_directions_of_an_estimator_and_tensors_do_as_well():
    _, x, y, found = aligned()
    est = ms.ModularRegressor('quick', 3, predictor='modules').fit(x, y)
    assert torch.allclose(made.modules(est.directions_).U[:, 0], torch.as_tensor(est.directions_).float())
    assert torch.equal(made.start_directions(torch.nn.Parameter(torch.eye(4))), torch.eye(4)[:, None])
    lazy = made.modules(found.U, lambda b: torch.nn.Sequential(torch.nn.LazyLinear(5), torch.nn.LazyLinear(2)), d=2)
    assert lazy(torch.zeros(3, 4)).shape == (3, 2) and sum(p.numel() for p in lazy.parameters()) > 0

@both
def test_state_copies_and_precisions(body):
    X, _, found = tensors()
    net, other = made.modules(found, body), made.modules(found.U, body, seed=3)
    torch.save(net.state_dict(), file := io.BytesIO())
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert torch.equal(other(X), net(X)) and torch.equal(copy.deepcopy(net)(X), net(X))
    double = copy.deepcopy(net).to(torch.float64)
    assert double(X.double()).dtype == torch.float64 and torch.allclose(double(X.double()).float(), net(X), atol=1e-4)
    with torch.autocast('cpu', torch.bfloat16): rounded = net(X)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, net(X))
    assert (rounded - net(X)).square().mean() < 1e-3*net(X).var()
    rounded.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())

@both
def test_the_graph_has_no_break(body):
    X, _, found = tensors()
    net = made.modules(found, body)
    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
    assert torch.allclose(compiled(X), net(X), atol=1e-5)
    compiled(X).square().mean().backward()
    own = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(X).square().mean().backward()
    assert all(torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4) for a, p in zip(own, net.parameters()))

def train_rank(rank, folder, x, y, U):
    "One of two processes: the gradient of DDP on its half of the rows."
    import torch.distributed as dist
    dist.init_process_group('gloo', init_method=(folder/'meet').as_uri(), rank=rank, world_size=2)
    net = torch.nn.parallel.DistributedDataParallel(made.modules(U))
    x, y = (torch.as_tensor(a[rank::2]).float() for a in (x, y))
    (net(x) - y).square().mean().backward()
    if rank == 0: torch.save({name: p.grad for name, p in net.module.named_parameters()}, folder/'out.pt')
    dist.destroy_process_group()

def test_two_processes_have_the_gradient_of_one(tmp_path):
    X, Y, found = tensors()
    # arrays, as tensors would be moved to memory that the processes share
    torch.multiprocessing.spawn(train_rank, (tmp_path, X.numpy(), Y.numpy(), found.U), nprocs=2)
    net, shared = made.modules(found.U), torch.load(tmp_path/'out.pt')
    (net(X) - Y).square().mean().backward()
    assert {*shared} == {name for name, _ in net.named_parameters()}
    assert all(torch.allclose(shared[name], p.grad, rtol=1e-3, atol=1e-5) for name, p in net.named_parameters())

def examples():
    "The examples of the notebook: what stands above each to its code."
    text = '\n'.join(''.join(c['source']) for c in cells(root/'nbs'/'rule'/'07_modules.ipynb')
                     if c['cell_type'] == 'markdown')
    return {re.sub(r'\W.*', '', title).lower(): code
            for title, code in re.findall(r'\*\*([^\n]*?)\*\*[^\n]*\n\n```python\n(.*?)```', text, re.S)}

@pytest.mark.parametrize('name', ['an', 'lightning', 'skorch'])
@pytest.mark.filterwarnings('ignore')
def test_the_examples_of_the_notebook_learn(name, tmp_path, monkeypatch):
    if name != 'an': pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    _, x, y, found = aligned()
    torch.manual_seed(0)
    names = dict(x=x, y=y)
    exec(examples()[name], names)
    if name == 'skorch': predict = lambda x: names['model'].predict(x.astype('float32'))
    else: predict = predictor(names['net'])
    assert explained(predict) > max(.8, explained(predictor(made.modules(found))))
    lines = examples()[name].splitlines()
    assert len(lines) <= 12

def test_skorch_makes_a_new_network_for_every_fold():
    skorch = pytest.importorskip('skorch')
    from sklearn.model_selection import cross_val_score
    _, x, y, found = aligned()
    model = skorch.NeuralNetRegressor(ms.modules, module__found=found, optimizer=torch.optim.Adam, lr=1e-2,
                                      max_epochs=20, verbose=0)
    scores = cross_val_score(model, x.astype('float32'), y.astype('float32')[:, None], cv=3, scoring='r2',
                             error_score='raise')
    assert len(scores) == 3 and scores.min() > .5

def test_the_study_counts_steps_and_keeps_the_best_weights():
    assert made.reached(np.array([3., 2, 1, 2]), 2.5) == 10 and np.isnan(made.reached(np.array([3., 2]), 1))
    rows, held, test = made.start_rows('sine', 100, 0)
    assert len(rows[0]) == 80 and len(held[0]) == 20 and len(test[0]) == 5000
    assert np.allclose(rows[0].mean(0), 0) and np.allclose(rows[1].std(), 1)
    net = made.perceptron(5, 2000, 0)
    assert abs(sum(p.numel() for p in net.parameters()) - 2000) < 100
    curve, seconds = made.train_start(net, rows, held, 1e-2, 200, 0)
    with torch.no_grad(): now = float((net(torch.as_tensor(held[0]).float())[:, 0].numpy() - held[1]).__pow__(2).mean())
    assert len(curve) == 21 and np.isclose(now, curve.min(), rtol=1e-4) and curve.min() < curve[0] and seconds > 0

def test_a_table_is_read_with_its_split(tmp_path, monkeypatch):
    monkeypatch.setenv('MODSCALE_DATA', str(tmp_path))
    with pytest.raises(ValueError, match='MODSCALE_DATA'): made.read_split('yacht', 0)
    for folder in ('uci20', 'physics'): (tmp_path/'tables'/folder).mkdir(parents=True)
    rows = pd.DataFrame(dict(a=[1., 2, 3, 4], y=[5., 6, 7, 8]))
    rows.to_csv(tmp_path/'tables'/'uci20'/'yacht.csv', index=False)
    (tmp_path/'tables'/'uci20'/'yacht.test.txt').write_text('0 1\n3\n')
    x, y, test = made.read_split('yacht', 1)
    assert x.tolist() == [[1], [2], [3], [4]] and y.tolist() == [5, 6, 7, 8] and test.tolist() == [False]*3 + [True]
    wing = pd.DataFrame(dict(a=[1., 2, 3], lift=[0., 0, 0], drag=[5., 6, 7]))
    wing.to_csv(tmp_path/'tables'/'physics'/'naca0012.csv', index=False)
    (tmp_path/'tables'/'physics'/'naca0012.fold.txt').write_text('0\n1\n0\n')
    x, y, test = made.read_split('naca0012', 0)
    assert x.tolist() == [[1], [2], [3]] and y.tolist() == [5, 6, 7] and test.tolist() == [True, False, True]
