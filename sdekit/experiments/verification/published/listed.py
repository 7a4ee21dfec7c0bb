"""The list of references."""

from __future__ import annotations

from sdekit.experiments.verification.published.adams import adams, adams_in_the_angle
from sdekit.experiments.verification.published.loops import in_x, one_evaluation_a_step
from sdekit.experiments.verification.published.multistep import (
    deis_sampler,
    ipndm,
    lms,
    pndm_loop,
    three_values,
    two_values,
    unified,
)
from sdekit.experiments.verification.published.one_step import (
    ancestral,
    ddim,
    dpm_solver_2,
    dpm_solver_3,
    dpmpp_2s,
    euler_maruyama,
    in_time,
    reverse_diffusion,
    runge_kutta,
)
from sdekit.experiments.verification.published.reference import Reference, Run
from sdekit.experiments.verification.published.stochastic import (
    ancestral_stages,
    edm,
    er_sde,
    restart,
    sa_solver,
    seeds_3,
    two_stages,
)

__all__ = ["REFERENCES", "references"]


# The list ----------------------------------------------------------------------------------------------------------


def _list() -> tuple[Reference, ...]:
    found: list[Reference] = []

    def add(name: str, run: Run, source: str, **options: object) -> None:
        found.append(Reference(name, run, source, options))

    song = "Song et al. 2021, arXiv 2011.13456"
    karras = "Karras et al. 2022, arXiv 2206.00364"
    dpm = "Lu et al. 2022, arXiv 2206.00927"
    dpmpp = "Lu et al. 2022, arXiv 2211.01095"
    crowson = "K. Crowson 2022, k-diffusion"
    deis = "Zhang & Chen 2022, arXiv 2204.13902"
    pndm = "Liu et al. 2022, arXiv 2202.09778"
    sa = "Xue et al. 2023, arXiv 2309.05019, algorithm 1"
    seeds = "Gonzalez et al. 2023, arXiv 2305.14267"

    for eta in (0.0, 0.5, 1.0):
        add("ddim", ddim(eta), "Song, Meng & Ermon 2021, arXiv 2010.02502, eqs. 12 and 16", eta=eta)
    for variance in ("posterior", "forward"):
        add("ancestral", ancestral(variance), "Ho et al. 2020, arXiv 2006.11239, algorithm 2", variance=variance)
    add("reverse_diffusion", reverse_diffusion, f"{song}, eq. 46")
    add("euler_maruyama", euler_maruyama, f"Maruyama 1955; {song}, eq. 6")

    for name in ("euler", "heun", "rk4"):
        add(name, runge_kutta(name), f"{karras}, algorithm 1" if name != "rk4" else "Kutta 1901", variable="sigma")
        add(name, in_time(name), f"{song}, eq. 13", variable="t")
    for method in ("midpoint", "heun", "kutta3", "rk4"):
        add("rho_rk", runge_kutta(method), f"{deis}, section 3.3", method=method)

    for r1 in (0.5, 0.7):
        add("dpm_solver_2", dpm_solver_2(r1), f"{dpm}, algorithm 1 and appendix B", r1=r1)
        add("dpmpp_2s", dpmpp_2s(r1), f"{dpmpp}, algorithm 1", r=r1)
    add("dpm_solver_3", one_evaluation_a_step(dpm_solver_3), f"{dpm}, algorithm 2")
    for variant in ("midpoint", "exact"):
        add("dpm_solver_2m", two_values("noise", variant), f"{dpm} and 2211.01095; diffusers", variant=variant)
        add("dpmpp_2m", two_values("data", variant), f"{dpmpp}, algorithm 2", variant=variant)
        for eta in (0.5, 1.0):
            source = f"{dpmpp}, appendix D; k-diffusion"
            add("dpmpp_2m_sde", two_values("data", variant, eta), source, eta=eta, variant=variant)
    for legacy in (True, False):
        add("dpm_solver_3m", three_values("noise", legacy), f"{dpm}; diffusers", legacy=legacy)
        add("dpmpp_3m", three_values("data", legacy), f"{dpmpp}, appendix B; diffusers", legacy=legacy)
        for eta in (0.5, 1.0):
            add("dpmpp_3m_sde", three_values("data", legacy, eta), f"{dpmpp}; k-diffusion", eta=eta, legacy=legacy)

    for p in (1, 2, 3):
        for variant in ("bh1", "bh2"):
            for prediction in ("data", "noise"):
                for name in ("unip", "unipc"):
                    run = unified(p, variant, prediction, name == "unipc")
                    source = "Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2"
                    add(name, run, source, p=p, variant=variant, prediction=prediction)

    for variant in ("rho_ab", "t_ab"):
        for values in (1, 2, 3):
            add("deis", deis_sampler(values, variant), f"{deis}, eqs. 14 and 15", values=values, variant=variant)
    for values in (2, 4):
        add("lms", lms(values), crowson, values=values)
        add("ipndm", ipndm(values), f"{deis}, appendix; {pndm}", values=values)
    add("pndm", in_x(pndm_loop), f"{pndm}, algorithm 2")

    rosenbrock = "Zheng et al. 2023, arXiv 2310.13268 (its training-free analogue)"
    for values in (2, 3):
        add("rosenbrock", adams("velocity", "lambda", values, 0), rosenbrock, values=values)
    for representation, clock, predictor, corrector, tau in (
        ("velocity", "t", 3, 3, 0.0),
        ("data", "theta", 3, 4, 0.0),
        ("noise", "sigma^0.5", 2, 0, 0.0),
        ("data", "t", 2, 3, 0.5),
        ("data", "lambda", 3, 3, 0.0),
        ("velocity", "theta/0.4", 3, 0, 0.5),
        ("velocity", "theta", 2, 3, 1.0),
    ):
        add(
            "adams",
            adams(representation, clock, predictor, corrector, tau),
            "sdekit 2026",
            representation=representation,
            clock=clock,
            predictor=predictor,
            corrector=corrector,
            tau=tau,
        )

    for settings in (
        {"predictor": 4, "corrector": 4, "damping": 0.4, "relief": 0.5, "cautious_above": 2.0, "last": 2, "hold": 0.01},
        {"predictor": 3, "corrector": 0, "tau": 0.7, "tau_low": 0.3, "tau_high": 5.0, "hold": 0.005},
    ):
        how = {"representation": "velocity", "clock": "theta", **settings}
        add("adams", adams_in_the_angle(**settings), "sdekit 2026", **how)  # type: ignore[arg-type]

    for eta in (0.0, 0.5, 1.0):
        add("euler_ancestral", ancestral_stages("euler", eta), crowson, eta=eta)
        add("dpm_2_ancestral", ancestral_stages("dpm_2", eta), crowson, eta=eta)
        add("dpmpp_2s_ancestral", ancestral_stages("dpmpp_2s", eta), crowson, eta=eta)
    for c, eta in ((0.5, 1.0), (0.5, 0.5), (0.7, 1.0), (0.5, 0.0)):
        add("dpmpp_sde", two_stages(c, eta, exact=False), f"{dpmpp}; k-diffusion", r=c, eta=eta)
        add("seeds_2", two_stages(c, eta, exact=True), f"{seeds}, data prediction", c=c, eta=eta)
    for eta in (0.0, 0.5, 1.0):
        add("seeds_3", seeds_3(eta), f"{seeds}, data prediction", eta=eta)
    for predictor, corrector, tau in ((3, 4, 1.0), (2, 0, 0.6), (1, 2, 1.0)):
        add("sa_solver", sa_solver(predictor, corrector, tau), sa, predictor=predictor, corrector=corrector, tau=tau)
    add("sa_solver", sa_solver(3, 3, 0.8, 0.2, 3.0), sa, corrector=3, tau=0.8, sigma_low=0.2, sigma_high=3.0)
    for values, legacy in ((1, False), (2, False), (3, False), (3, True)):
        source = "Cui et al. 2023, arXiv 2309.06169, algorithms 1 to 3"
        add("er_sde", er_sde(values, legacy), source, values=values, legacy=legacy)

    for method, churn, tmin, tmax, noise in (
        ("heun", 40.0, 0.05, 50.0, 1.0),
        ("heun", 1.2, 0.05, 1e4, 1.003),
        ("euler", 1.2, 0.3, 50.0, 1.003),
        ("heun", 0.0, 0.05, 50.0, 1.0),
    ):
        add(
            "edm",
            edm(method, churn, tmin, tmax, noise),
            f"{karras}, algorithm 2",
            method=method,
            s_churn=churn,
            s_tmin=tmin,
            s_tmax=tmax,
            s_noise=noise,
        )
    for low, high, inner, repeats in ((0.14, 0.3, 2, 2), (0.5, 2.0, 3, 1)):
        add(
            "restart",
            restart(low, high, inner, repeats),
            "Xu et al. 2023, arXiv 2306.14878, algorithm 1",
            s_min=low,
            s_max=high,
            restart_steps=inner,
            repeats=repeats,
        )
    return tuple(found)


REFERENCES: tuple[Reference, ...] = _list()


def references(name: str) -> tuple[Reference, ...]:
    """All references of that catalogue name."""
    return tuple(reference for reference in REFERENCES if reference.name == name)
