"""Runs of two processes, for 05_distributed: `torchrun together.py` compares them, `python together.py one_ends` ends one of them.

Both write into the working folder."""
import json
import os
import signal
import socket
import sys
import time

import torch
from killed import batches, bits, losses, network

from modscale.nets.checkpoint import Checkpoints
from modscale.nets.distributed import FirstKeeps, process_group, share_of_batches, start_together
from modscale.nets.networks import ModularNet, random_projections
from modscale.nets.train import fit, mse

def train(group, keep=None, look=None):
    "All weights at the end of a run; the processes start with different ones."
    net = network(group.rank)
    start_together(net, group)
    def validate(net):
        if look: look(net)
        return losses(net)
    fit(net, share_of_batches(batches, group), mse, 200, validate=validate, every=10, keep=keep and FirstKeeps(keep, group), sync=group.sync)
    return bits(net)

def error_of(call):
    try: call()
    except Exception as e: return f'{type(e).__name__}: {e}'
    return ''

def compare():
    "Write to a file of each process: weights on the way and at the end, plain, kept, and gone on with; the steps kept; and what is refused."
    with process_group(timeout=30) as group:
        course, out = [], {}
        out['plain'] = train(group, look=lambda net: course.append(bits(net)))
        out['course'] = torch.stack(course)
        ticks = iter(range(10**6))                                          # clocks run at different speeds
        keep = Checkpoints(f'run-{group.rank}', minutes=1, keep=100, clock=lambda: next(ticks)*(13 + 1e6*group.rank))
        out['kept'] = train(group, keep)
        out['files'] = [int(f.name[5:17]) for f in keep.files()]
        for file in keep.files()[:2]: file.unlink()
        out['gone on'] = train(group, keep)
        out['refused'] = error_of(lambda: train(group, Checkpoints(f'run-{group.rank}', settings=dict(lr=1))))
        support = (torch.tensor([[0, 1], [1, 2]]) + group.rank) % 3
        out['modules'] = error_of(lambda: start_together(ModularNet(random_projections(1, 2, 2), width=8, support=support), group))
        torch.save(out, f'rank-{group.rank}.pt')

def ending(how):
    "A look at validations that ends this process at the third."
    looks = []
    def look(net):
        looks.append(1)
        if len(looks) < 3: return
        if how == 'error': raise OSError('a disk fails')
        os.kill(os.getpid(), signal.SIGKILL if how == 'killed' else signal.SIGSTOP)
    return look

def one_of_two(rank, port, how):
    "The life of a process; the first writes its error."
    os.environ.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='localhost', MASTER_PORT=str(port))
    def run():
        with process_group('gloo', timeout=3) as group: train(group, look=ending(how) if rank else None)
    text = error_of(run)
    if rank == 0:
        with open(how, 'w') as f: f.write(text)
    os._exit(bool(text))

def free_port():
    with socket.socket() as s:
        s.bind(('localhost', 0))
        return s.getsockname()[1]

def one_ends():
    "What becomes of process 0, and when, if process 1 ends in one of three ways."
    out = {}
    for how in ('killed', 'error', 'stopped'):
        port, children, begun = free_port(), [], time.monotonic()
        for rank in range(2):
            if not (pid := os.fork()): one_of_two(rank, port, how)
            children.append(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
        with open(how) as f: out[how] = dict(status=status, seconds=round(time.monotonic() - begun, 1), error=f.readline().strip())
        os.kill(children[1], signal.SIGKILL)
        os.waitpid(children[1], 0)
    print(json.dumps(out))

if __name__ == '__main__': one_ends() if 'one_ends' in sys.argv else compare()
