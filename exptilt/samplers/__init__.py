"""The algorithms: each file states the distribution it targets, then its dataclass, then how it draws."""

from exptilt.samplers import growth as growth  # it registers how traces are drawn
from exptilt.samplers.beam import Beam
from exptilt.samplers.command import Command
from exptilt.samplers.ets import ETS
from exptilt.samplers.gibbs import ParticleGibbs
from exptilt.samplers.independent import Independent
from exptilt.samplers.mcmc import Metropolised, SuffixMCMC
from exptilt.samplers.rejection import Rejection
from exptilt.samplers.smc import SMC

__all__ = ["ETS", "Beam", "Independent", "Rejection", "SuffixMCMC", "SMC", "Metropolised", "ParticleGibbs", "Command"]
