"""A run for test_train_survives.py: `python killed_run.py FOLDER STEPS DIES`, alone or under `torchrun`.

Its state is in FOLDER after every step that may save; process 1 kills itself at step DIES; weights: FOLDER-rank.pt."""
import os, signal, sys
from itertools import islice
import torch
from modscale.nets.checkpoint import Checkpoints
from modscale.nets.distributed import FirstKeeps, process_group, share_of_batches, start_together
from modscale.nets.networks import ModularNet, random_projections
from modscale.nets.train import fit, minibatches, mse

x = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
y, n = x.sin().sum(2, keepdim=True), torch.tensor([60, 80])

def main(folder, steps, dies):
    with process_group('gloo', timeout=60) as group:  # two processes may share a machine with one GPU
        net = ModularNet(random_projections(2, 2, 3), width=8, seed=group.rank)
        start_together(net, group)
        def feed(done):
            for step, pair in enumerate(islice(minibatches(x, y, n, 16), done, None), done):
                if group.rank == 1 and step == dies: os.kill(os.getpid(), signal.SIGKILL)
                yield pair
        keep = FirstKeeps(Checkpoints(folder, minutes=0, settings=dict(steps=steps)), group)
        how = dict(validate=lambda net: mse(net(x), y), every=10, keep=keep, sync=group.sync)
        fit(net, share_of_batches(feed, group), mse, steps, **how)
        torch.save([p.detach() for p in net.parameters()], f'{folder}-{group.rank}.pt')

if __name__ == '__main__': main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
