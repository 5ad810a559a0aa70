"""Image-diffusion models of diffusers whose steps draw noise.

engine.py is the engine; sampling.py says what fixes its distribution, steps.py the Gaussian steps of each scheduler, noise.py how
noise is named by tokens; paths.py keeps states; rows.py takes steps, decode.py is the batch of rows that the scheduler drives;
schedules.py reads the schedulers of diffusers, networks.py runs the networks, prompts.py says what they are told of a prompt, and
loading.py finds the parts of a pipeline.
"""

from exptilt.engines.image.engine import ImageEngine
from exptilt.engines.image.model import Model
from exptilt.engines.image.noise import Discrete, Gaussian
from exptilt.engines.image.sampling import ImageSampling

__all__ = ["Discrete", "Gaussian", "ImageEngine", "ImageSampling", "Model"]
