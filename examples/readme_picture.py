"""Draws the README's picture: digits by six solvers, and the error of ODE solvers against their evaluations."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import sdekit as sk

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/readme.png")
figure = Figure(figsize=(11, 3.6), layout="constrained")
FigureCanvasAgg(figure)
sheet_axes, error_axes = figure.subplots(1, 2, width_ratios=[1.15, 1])

# Left: the bundled network, one row a solver, one column a class, every row from the same prior draws.
network = sk.models.load("digits")
labels = torch.arange(10)
rows = [
    ("ddim, 20", "ddim", {"steps": 20}),
    ("heun, 20", "heun", {"steps": 10}),
    ("scipy:RK45", "scipy:RK45", {"rtol": 1e-3, "atol": 1e-3}),
    ("ancestral, 100", "ancestral", {"steps": 100}),
    ("pc, 200", "pc", {"steps": 100, "snr": 0.1}),
    ("torchsde:heun, 200", "torchsde:heun", {"steps": 100}),
]
images = []
for _, solver, options in rows:
    x = sk.sample(network, 10, solver=solver, seed=4, condition={"y": labels}, **options).x
    images.append(torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)[:, 0].transpose(0, 1).reshape(10, 100))
sheet_axes.imshow(torch.cat(images).clamp(-1, 1), cmap="gray", vmin=-1, vmax=1)
sheet_axes.set_yticks([10 * i + 4.5 for i in range(len(rows))], [name for name, *_ in rows])
sheet_axes.set_xticks([])
sheet_axes.set_title("bundled network, same starts")

# Right: distance to the exact probability-flow image of the same start, on digits whose score is exact.
model = sk.targets.digits().score_model(sk.VPSDE())
start = sk.VPSDE().prior((32, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
exact = sk.sample(model, x_T=start, solver="scipy:DOP853", rtol=1e-9, atol=1e-9).x
for marker, solver in zip("os^", ("ddim", "heun", "rk4"), strict=True):
    stages = sk.solvers.get(solver).evaluations_per_step
    points = []
    for nfe in (8, 16, 32, 64, 128):
        run = sk.sample(model, x_T=start, solver=solver, steps=nfe // stages, grid="log_snr")
        points.append((run.nfe, float((run.x - exact).square().flatten(1).mean(1).sqrt().median())))
    error_axes.loglog(*zip(*points, strict=True), marker=marker, label=solver)
points = []
for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
    run = sk.sample(model, x_T=start, solver="scipy:RK45", rtol=tolerance, atol=tolerance)
    points.append((run.nfe, float((run.x - exact).square().flatten(1).mean(1).sqrt().median())))
error_axes.loglog(*zip(*points, strict=True), marker="D", label="scipy:RK45")
error_axes.set_xlabel("network evaluations")
error_axes.set_title("error of the flow, exact digits (median RMS a pixel)")
error_axes.grid(alpha=0.3, which="both")
error_axes.legend()

out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=110)
print("wrote", out)
