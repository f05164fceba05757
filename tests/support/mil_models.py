"""Attention-MIL models as people write them: gated attention, CLAM-like, ACMIL-like, one module a branch, masked batches."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 6


class Gated(nn.Module):
    """Gated attention over one bag [N, D]; the softmax is functional, over the transposed scores."""

    def __init__(self, branches=1):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU())
        self.tanh, self.gate, self.score = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, branches)
        self.classes = nn.Linear(8 * branches, 2)

    def forward(self, bag):
        h = self.features(bag)
        a = self.score(torch.tanh(self.tanh(h)) * torch.sigmoid(self.gate(h)))
        a = F.softmax(a.transpose(0, 1), dim=1)
        return self.classes((a @ h).flatten())


class Clam(nn.Module):
    """An attention net that returns (scores [N, K], features), K classes, one classifier each."""

    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, classes)

        def forward(self, h):
            return self.c(torch.tanh(self.a(h)) * torch.sigmoid(self.b(h))), h

    def __init__(self, classes=3):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU())
        self.attention_net = self.Net(classes)
        self.classifiers = nn.ModuleList(nn.Linear(8, 1) for _ in range(classes))

    def forward(self, bag):
        a, h = self.attention_net(self.fc(bag))
        a = torch.transpose(a, 1, 0)
        m = F.softmax(a, dim=1) @ h
        logits = torch.cat([c(m[i : i + 1]) for i, c in enumerate(self.classifiers)], 1)
        return logits, F.softmax(logits, dim=1), a


class Acmil(nn.Module):
    """Batches [B, N, D], K branches [B, N, K], a temperature, padding masked before a softmax module, masks of the strongest
    in training."""

    def __init__(self, branches=4):
        super().__init__()
        self.reduce = nn.Linear(WIDTH, 8, bias=False)
        self.v, self.u, self.w = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, branches)
        self.softmax = nn.Softmax(dim=1)
        self.bag = nn.Linear(8, 2)

    def forward(self, bag):
        h = torch.relu(self.reduce(bag))
        e = self.w(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h))) / 2**0.5
        padded = (bag == 0).all(-1)
        e = e.masked_fill(padded[..., None], float("-inf"))
        a = self.softmax(e)
        return self.bag(torch.einsum("bnk,bnd->bkd", a, h).mean(1))


class Branches(nn.Module):
    """Each branch a module of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)
        self.classes = nn.Linear(WIDTH, 2)

    def forward(self, bag):
        return self.classes(sum(torch.softmax(b(bag).squeeze(-1), 0) @ bag for b in (self.one, self.two)))


def seeded(model, seed=0):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def bag(n, *leading, seed=3):
    return torch.randn(*leading, n, WIDTH, generator=torch.Generator().manual_seed(seed))
