"""A small comparison of samplers on an exact target, from Python."""

import tempfile

import sdekit as sk

target = sk.targets.moons()
model = target.score_model(sk.VPSDE())
report = sk.compare(
    {"moons": model}, solvers=["ddim", "heun", "ancestral"], nfe=[10, 20, 40], seeds=2, reference=target, n=500
)
print(report.pareto().to_string(index=False))
folder = report.save(tempfile.mkdtemp())
print("one page with everything:", (folder / "report.html").name)
