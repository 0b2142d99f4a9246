"""Runs that are killed, for 04_checkpoint: `python killed.py NAME`, in an empty folder, prints what a function returns.

Runs are forks of a process that has loaded PyTorch, so each is cheap."""
import json
import os
import random
import signal
import sys
import time
from itertools import islice

import torch

from modscale.base import files
from modscale.nets import checkpoint
from modscale.nets.checkpoint import Checkpoints
from modscale.nets.networks import ModularNet, random_projections
from modscale.nets.train import fit, minibatches, mse

x = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
y, n = x.sin().sum(2, keepdim=True), torch.tensor([100, 150])

class Every(Checkpoints):
    "Saves after every so many steps."
    def __init__(self, folder, steps):
        super().__init__(folder)
        self.steps = steps
    def due(self, step): return step % self.steps == 0

def network(seed=0): return ModularNet(random_projections(2, 2, 3, seed=seed), width=8, seed=seed)
def bits(net): return torch.cat([p.detach().flatten() for p in net.parameters()])
def batches(done): return islice(minibatches(x, y, n, batch=32), done, None)
def losses(net): return mse(net(x[:, 150:]), y[:, 150:])

def train(keep=None, steps=40, look=None):
    "All weights at the end of a run; `look` is told each mean validation loss."
    net = network()
    def validate(net):
        if look: look(losses(net).mean().item())
        return losses(net)
    fit(net, batches, mse, steps, validate=validate, every=5, keep=keep)
    return bits(net)

def forked(work):
    "Run `work` in a process of its own; returns the signal that ended it."
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])

def listed(folder): return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
def newest(folder): return max((int(f[5:17]) for f in listed(folder) if f.startswith('step')), default=0)
def half_written(folder): return any(f.startswith('.') for f in listed(folder))

def die_at(save, line):
    "Kill this process when it reaches a line of the code that saves, counted from the start of a save; both from 1."
    begins, seen = Checkpoints.save.__code__, [0, 0]                        # saves begun, lines of this one
    watched = {begins, Checkpoints.files.__code__, checkpoint.pack_state.__code__, files.write_whole.__code__}
    def local(frame, event, arg):
        seen[1] += event == 'line' and seen[0] == save
        if seen == [save, line]: os.kill(os.getpid(), signal.SIGKILL)
        return local
    def entered(frame, event, arg):
        seen[0] += frame.f_code is begins
        return local if frame.f_code in watched else None
    sys.settrace(entered)

def at_every_line():
    "For each kill: save, line, signal, the files left, whether one was loaded, whether the run ended as undisturbed."
    straight, out = train(), []
    for save in (1, 3):
        for line in range(1, 1000):                                         # until the save has no such line
            folder = f'kill-{save}-{line}'
            def dying():
                die_at(save, line)
                train(Every(folder, 10))
            ended, left = forked(dying), listed(folder)
            if not ended: break
            found = Checkpoints(folder).load() is not None
            out.append((save, line, ended, left, found, torch.equal(train(Every(folder, 10)), straight)))
    return out

def kill_after(step, folder, wait):
    "Run, and kill from outside once a step is on disk and a while has passed; was it still alive?"
    pid = os.fork()
    if not pid:
        train(Every(folder, 1), 100)
        os._exit(0)
    while newest(folder) < step: time.sleep(2e-4)
    time.sleep(wait)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

def at_random():
    "Three runs of eight kills: steps on disk, saves cut, whether all ended as undisturbed; what is left to do then."
    straight, chance, out = train(None, 100), random.Random(0), []
    for trial in range(3):
        folder = f'random-{trial}'
        kills = [(newest(folder), half_written(folder)) for step in sorted(chance.sample(range(90), 8))
                 if kill_after(step, folder, chance.uniform(0, .005))]
        out.append((kills, torch.equal(train(Every(folder, 1), 100), straight)))
    before, looks = listed('random-0'), []
    same = torch.equal(train(Every('random-0', 1), 100, looks.append), straight)
    return out, (same, len(looks), before == listed('random-0'))

def curves():
    "Mean validation losses of an undisturbed run, and of the parts of a run that kills itself at four validations."
    straight, parts = [], []
    end = train(None, 600, straight.append)
    for die in (17, 29, 58, 97, None):                      # validations, five steps each, from the start of the run
        def part():
            at = [newest('curves')//5]
            with open(f'part-{die}', 'w', buffering=1) as f:
                def note(loss):
                    at[0] += 1
                    print(json.dumps([at[0]*5, loss]), file=f)
                    if at[0] == die: os.kill(os.getpid(), signal.SIGKILL)
                assert torch.equal(train(Every('curves', 50), 600, note), end)
        forked(part)
        with open(f'part-{die}') as f: parts.append([json.loads(line) for line in f])
    return straight, parts

if __name__ == '__main__': print(json.dumps(globals()[sys.argv[1]]()))
