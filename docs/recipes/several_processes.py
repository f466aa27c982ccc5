import accelerate
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune

accelerate.utils.set_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
body = [nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU()]
model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))
optimizer = torch.optim.AdamW(model.parameters(), 0.003)
loader = DataLoader(TensorDataset(x[:1200], y[:1200]), 32, shuffle=True)

accelerator = accelerate.Accelerator(cpu=True)
wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
pruner = fxprune.Gradual(model, x[:1], epochs=[4, 5], optimizer=optimizer, macs=0.4, data=[x[:512]])
for epoch in range(10):
    if pruner.step(epoch):
        wrapped = accelerator.prepare_model(model)
    for images, labels in loader:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(wrapped(images), labels))
        optimizer.step()

if accelerator.is_main_process:
    accuracy = (model.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean().item()
    print(f"{accelerator.num_processes} processes, {pruner.result}, accuracy {accuracy:.3f}")
    assert accuracy > 0.9
