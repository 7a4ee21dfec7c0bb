"""Every test runs torch on one thread: small tensors gain nothing from two, and results must not depend on it."""

import torch

torch.set_num_threads(1)
