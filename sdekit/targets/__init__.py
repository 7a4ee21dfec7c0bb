r"""Targets: distributions whose samples, density, score and denoiser are exact at every noise level.

A diffusion SDE carries x_0 ~ p_0 to x_t = alpha x_0 + sigma eps, with eps ~ N(0, I) independent of x_0, so that
p_t is p_0 scaled by alpha and smoothed by a Gaussian of standard deviation sigma.

**A Gaussian** p_0 = N(m, C). With V = alpha^2 C + sigma^2 I, (x_0, x_t) is jointly Gaussian with
Cov[x_0, x_t] = alpha C, hence

    p_t   = N(alpha m, V),                           score s = -V^{-1} (x - alpha m)
    D     = E[x_0 | x_t = x] = m + alpha C V^{-1} (x - alpha m)
    Cov[x_0 | x_t = x] = C - alpha^2 C V^{-1} C = sigma^2 C V^{-1}

(the last because C V^{-1} commutes with C and alpha^2 C + sigma^2 I = V).

**A mixture** p_0 = sum_k w_k N(m_k, C_k). Each component stays Gaussian; the posterior of the component,

    r_k(x) = w_k N(x; alpha m_k, V_k) / p_t(x),      p_t(x) = sum_k w_k N(x; alpha m_k, V_k),

weighs the components' answers: s = sum_k r_k s_k, D = sum_k r_k D_k, and by the law of total variance
Cov[x_0 | x_t] = sum_k r_k sigma^2 C_k V_k^{-1} + Cov_r[D_k].

**Any target**: differentiating log p_t once and twice under the integral gives

    D = (x + sigma^2 s)/alpha                        (Robbins 1956; Miyasawa 1961; "Tweedie's formula")
    dD/dx = (alpha/sigma^2) Cov[x_0 | x_t = x]

For a mixture D_k - x/alpha = (sigma^2/alpha) s_k, so that

    dD/dx = alpha sum_k r_k C_k V_k^{-1} + (sigma^2/alpha) Cov_r[s_k],

which, unlike the quotient by sigma^2, stays exact as sigma goes to 0.

**The probability flow of a Gaussian** is linear: each eigen-direction of C, with eigenvalue c, is stretched in
proportion to its standard deviation, from sqrt(alpha_t^2 c + sigma_t^2) to sqrt(alpha_s^2 c + sigma_s^2).

**Rounding.** D from s, or s from D, subtracts nearly equal numbers at one end of the noise scale, so both are computed
side by side, each from a sum of terms that do not cancel, in float64 whatever the dtype of x (the
posterior of the component hangs on small differences of large logits: with float32 ones the score of the digits is
wrong by up to 2e-3). The score model predicts
v = alpha eps - sigma D, from which noise, score and denoised are recovered without loss at both ends:
D = (alpha x - sigma v)/(alpha^2 + sigma^2), eps = (sigma x + alpha v)/(alpha^2 + sigma^2). This holds for data of
about unit scale; scale other data first.
"""

from sdekit.targets.base import Target
from sdekit.targets.gaussian import Gaussian
from sdekit.targets.mixture import GaussianMixture
from sdekit.targets.ready_made import digits, moons, named, ring

__all__ = ["Gaussian", "GaussianMixture", "Target", "digits", "moons", "named", "ring"]
