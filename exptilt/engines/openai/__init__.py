"""Models behind servers that speak OpenAI's protocol: vLLM, SGLang, llama.cpp's server, hosted ones.

load → connect → probe     what the server can do
OpenAIBackend → wire       requests and answers
              → text       prompts to tokens and back; pieces: identities of tokens where only text is returned
              → engines.transport   connections, retries, limits, errors
"""

from exptilt.engines.openai.backend import OpenAIBackend
from exptilt.engines.openai.server import Server, connect

__all__ = ["OpenAIBackend", "Server", "connect"]
